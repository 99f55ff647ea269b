#!/usr/bin/env bash
# kcat (Debian's, librdkafka 2.0) produces, consumes and commits, without and with TLS,
# SCRAM and ACLs. Installs kcat if it is missing.
. "$(dirname "$0")/suite.sh"
need kcat kcat
start_target

K() { timeout 60 kcat -b "$broker" "${auth[@]}" "$@"; }
count=5000

# every NAME PREFIX: all checks, under names of topics and groups that begin so
every() {
	local codec topic group ms
	for codec in none gzip snappy lz4 zstd; do
		topic=$2kcat-$codec
		K -L -t "$topic" >/dev/null 2>&1 || true # creates it
		seq 1 $count | sed "s/^/k:v-$codec-/" | K -P -t "$topic" -p 0 -K: -z "$codec" -X enable.idempotence=true -H h1=a -H h2=
		same "$1/$codec/values" "$(seq 1 $count | sed "s/^/v-$codec-/" | md5sum)" "$(K -C -t "$topic" -p 0 -o beginning -c $count -q -f '%s\n' | md5sum)"
		same "$1/$codec/headers" "h1=a,h2=" "$(K -C -t "$topic" -p 0 -o beginning -c 1 -q -f '%h\n')"
		same "$1/$codec/end" "$count" "$(K -Q -t "$topic:0:-1" | awk '{print $NF}')"
	done
	topic=$2kcat-group group=$2kcat
	K -L -t "$topic" >/dev/null 2>&1 || true
	seq 1 $count | K -P -t "$topic" -z lz4
	K -G "$group" -X auto.offset.reset=earliest -X session.timeout.ms=10000 -q -e "$topic" >"$WORK/first" 2>/dev/null
	same "$1/group-reads-all" $count "$(sort -un "$WORK/first" | wc -l)"
	K -G "$group" -X auto.offset.reset=earliest -q -e "$topic" >"$WORK/second" 2>/dev/null
	same "$1/group-goes-on-where-it-committed" 0 "$(wc -l <"$WORK/second")"
	topic=$2kcat-time
	K -L -t "$topic" >/dev/null 2>&1 || true
	echo early | K -P -t "$topic" -p 0
	sleep 1.1
	ms=$(date +%s%3N)
	echo late | K -P -t "$topic" -p 0
	same "$1/offset-for-a-time" late "$(K -C -t "$topic" -p 0 -o "s@$ms" -e -q | head -1)"
	topic=$2kcat-txn
	K -L -t "$topic" >/dev/null 2>&1 || true
	printf 'x\ny\n' | K -P -t "$topic" -p 0 -X transactional.id="$2kcat" >/dev/null 2>&1
	same "$1/transaction-read-committed" "x y" "$(K -C -t "$topic" -p 0 -o beginning -e -q -X isolation.level=read_committed | tail -2 | xargs)"
	printf '1:keep\n1:\n' | K -P -t "$topic" -p 0 -K: -Z
	same "$1/tombstone" -1 "$(K -C -t "$topic" -p 0 -o -1 -c1 -e -q -f '%S\n')"
}

auth=() broker=$BROKERS mechanism=SCRAM-SHA-512
every plain plain-

if [ "$TARGET" = kafka ]; then # the bundled broker has these rules from its configuration
	for resource in topic group transactional-id; do
		limit=60 jvm "$kafka_libs" org.apache.kafka.tools.AclCommand --bootstrap-server "$BROKERS" --add --allow-principal "User:$LIMITED_USER" --operation All \
			"--$resource" limited- --resource-pattern-type prefixed >/dev/null 2>&1
	done
	# Apache Kafka refuses the SCRAM of this librdkafka for its nonce (CVE-2024-56128).
	mechanism=PLAIN
fi
auth=(-X security.protocol=SASL_SSL -X sasl.mechanism=$mechanism -X sasl.username="$LIMITED_USER" -X sasl.password="$SUITE_PASSWORD" -X ssl.ca.location="$CA")
broker=$SECURE_BROKERS
every secure limited-
same secure/a-topic-that-no-rule-allows "" "$(echo no | K -P -t forbidden -p 0 -X message.timeout.ms=3000 2>/dev/null; K -L -t forbidden 2>/dev/null | grep 'topic "forbidden" with 1 partitions' || true)"
verdict kcat
