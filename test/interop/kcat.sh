#!/usr/bin/env bash
# kcat (Debian's, librdkafka 2.0) produces, consumes and commits on the bundled
# broker, without and with TLS, SCRAM and ACLs. Installs kcat if it is missing.
cd "$(dirname "$0")"
. ./broker.sh
command -v kcat >/dev/null || { apt-get update -qq && apt-get install -y -qq kcat >/dev/null; }
build_replicator

passed=0 failed=0
same() { # name want got
	if [ "$2" = "$3" ]; then passed=$((passed + 1)); else
		failed=$((failed + 1))
		echo "FAIL $1: want [$2], got [$3]"
	fi
}
K() { timeout 60 kcat -b "$BROKERS" "${auth[@]}" "$@"; }
count=5000

suite() {
	local codec topic group ms
	for codec in none gzip snappy lz4 zstd; do
		topic=kcat-$1-$codec
		K -L -t "$topic" >/dev/null 2>&1 || true # creates it
		seq 1 $count | sed "s/^/k:v-$codec-/" | K -P -t "$topic" -p 0 -K: -z "$codec" -X enable.idempotence=true -H h1=a -H h2=
		same "$1 $codec: values" "$(seq 1 $count | sed "s/^/v-$codec-/" | md5sum)" "$(K -C -t "$topic" -p 0 -o beginning -c $count -q -f '%s\n' | md5sum)"
		same "$1 $codec: headers" "h1=a,h2=" "$(K -C -t "$topic" -p 0 -o beginning -c 1 -q -f '%h\n')"
		same "$1 $codec: end" "$count" "$(K -Q -t "$topic:0:-1" | awk '{print $NF}')"
	done
	topic=kcat-$1-group group=kcat-$1
	K -L -t "$topic" >/dev/null 2>&1 || true
	seq 1 $count | K -P -t "$topic" -z lz4
	K -G "$group" -X auto.offset.reset=earliest -X session.timeout.ms=10000 -q -e "$topic" >"$WORK/first" 2>/dev/null
	same "$1 group: reads all" $count "$(sort -un "$WORK/first" | wc -l)"
	K -G "$group" -X auto.offset.reset=earliest -q -e "$topic" >"$WORK/second" 2>/dev/null
	same "$1 group: goes on where it committed" 0 "$(wc -l <"$WORK/second")"
	topic=kcat-$1-time
	K -L -t "$topic" >/dev/null 2>&1 || true
	echo early | K -P -t "$topic" -p 0
	sleep 1.1
	ms=$(date +%s%3N)
	echo late | K -P -t "$topic" -p 0
	same "$1 offset for a time" late "$(K -C -t "$topic" -p 0 -o "s@$ms" -e -q | head -1)"
	topic=kcat-$1-txn
	K -L -t "$topic" >/dev/null 2>&1 || true
	printf 'x\ny\n' | K -P -t "$topic" -p 0 -X transactional.id="kcat-$1" >/dev/null 2>&1
	same "$1 transaction: read_committed" "x y" "$(K -C -t "$topic" -p 0 -o beginning -e -q -X isolation.level=read_committed | tail -2 | xargs)"
	printf '1:keep\n1:\n' | K -P -t "$topic" -p 0 -K: -Z
	same "$1 tombstone" -1 "$(K -C -t "$topic" -p 0 -o -1 -c1 -e -q -f '%S\n')"
}

auth=()
start_broker --dir "$WORK/plain" --listen 127.0.0.1:0
suite plain
stop_broker

printf 'dataDir: %s\nlisteners:\n  - {name: client, address: "127.0.0.1:0", protocol: SASL_TLS, certFile: %s, keyFile: %s}\nauthorizer: true\nusers:\n  - {name: kcat, password: "${env:KCAT_PASSWORD}"}\nacls:\n  - "User:kcat Allow All Topic:kcat-* from *"\n  - "User:kcat Allow All Group:kcat-* from *"\n  - "User:kcat Allow All TransactionalId:kcat-* from *"\n' \
	"$WORK/secure" "$WORK/broker.pem" "$WORK/broker-key.pem" >"$WORK/broker.yaml"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext 'subjectAltName=IP:127.0.0.1,DNS:localhost' \
	-keyout "$WORK/broker-key.pem" -out "$WORK/broker.pem" 2>/dev/null
export KCAT_PASSWORD=correct-horse
start_broker --config "$WORK/broker.yaml"
auth=(-X security.protocol=SASL_SSL -X sasl.mechanism=SCRAM-SHA-512 -X sasl.username=kcat -X sasl.password=$KCAT_PASSWORD -X ssl.ca.location="$WORK/broker.pem")
suite secure
same "a topic that no rule allows" "" "$(echo no | K -P -t forbidden -p 0 -X message.timeout.ms=3000 2>/dev/null; K -L -t forbidden 2>/dev/null | grep 'topic "forbidden" with 1 partitions' || true)"

echo "kcat: $passed passed, $failed failed"
[ "$failed" = 0 ]
