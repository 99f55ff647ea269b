#!/usr/bin/env bash
# Kafka Connect, distributed: two workers with their internal topics on the broker. A
# FileStreamSource (exactly once) reads a file into a topic, a FileStreamSink writes the
# topic into another, while the worker that runs the tasks is killed (SIGKILL) and comes
# back. The topic must have every line once and in order; a sink repeats at most what it
# had not committed, so its file must have every line, in order but for such repeats.
. "$(dirname "$0")/suite.sh"
version=${VERSION:-4.1.1}
need java openjdk-17-jre-headless
need curl curl
libs=$(jars "$version")
start_target

declare -A worker port
for w in a b; do
	port[$w]=$(free_port)
	cat >"$WORK/$w.properties" <<-PROPERTIES
		bootstrap.servers=$BROKERS
		group.id=connect
		key.converter=org.apache.kafka.connect.storage.StringConverter
		value.converter=org.apache.kafka.connect.storage.StringConverter
		config.storage.topic=connect-configs
		offset.storage.topic=connect-offsets
		offset.storage.partitions=5
		status.storage.topic=connect-status
		config.storage.replication.factor=1
		offset.storage.replication.factor=1
		status.storage.replication.factor=1
		exactly.once.source.support=enabled
		offset.flush.interval.ms=1000
		session.timeout.ms=6000
		heartbeat.interval.ms=1000
		scheduled.rebalance.max.delay.ms=1000
		listeners=http://127.0.0.1:${port[$w]}
		plugin.discovery=service_load
	PROPERTIES
done
start_worker() {
	exec=exec jvm "$libs" org.apache.kafka.connect.cli.ConnectDistributed "$WORK/$1.properties" >>"$WORK/worker-$1.log" 2>&1 & disown
	worker[$1]=$!
	others+=($!)
}
rest() { # worker method path [body]
	curl -sS --max-time 30 -X "$2" -H 'Content-Type: application/json' ${4:+-d "$4"} "http://127.0.0.1:${port[$1]}$3"
}
until_true() { # seconds command ...
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || { "$@"; return 1; }
		sleep 0.5
	done
}
up() { rest "$1" GET /connectors | grep -q '^\['; }
running() { # worker connector: connector and task
	[ "$(rest "$1" GET "/connectors/$2/status" | grep -o '"state":"RUNNING"' | wc -l)" = 2 ]
}
lines() { [ "$(sort -un "$WORK/out.txt" 2>/dev/null | wc -l)" -ge "$1" ]; }
owner() { # connector: the worker that runs its task
	rest "$1" GET "/connectors/$2/status" | grep -o '"tasks":.*' | grep -q ":${port[a]}\"" && echo a || echo b
}

start_worker a
start_worker b
check workers-are-up eval 'until_true 90 up a && until_true 90 up b'
check internal-topics-are-compacted eval 'limit=60 jvm "$libs" kafka.admin.ConfigCommand --bootstrap-server "$BROKERS" --describe --entity-type topics --entity-name connect-configs | grep -q cleanup.policy=compact'
seq 1 2000 >"$WORK/in.txt"
connector() { printf '{"connector.class":"%s","tasks.max":"1","file":"%s","%s":"lines"%s}' "$1" "$2" "$3" "${4:-}"; }
check create-source rest a PUT /connectors/source/config "$(connector FileStreamSource "$WORK/in.txt" topic ',"exactly.once.support":"requested","transaction.boundary":"poll"')"
check create-sink rest b PUT /connectors/sink/config "$(connector FileStreamSink "$WORK/out.txt" topics ',"consumer.override.auto.offset.reset":"earliest"')"
check source-runs until_true 60 running b source
check sink-runs until_true 60 running a sink
check lines-arrive until_true 60 lines 2000

# Lines come all the while; the worker with the source goes, then the other.
(for i in $(seq 2001 20 8000); do seq "$i" $((i + 19)); sleep 0.1; done >>"$WORK/in.txt") &
others+=($!)
check lines-go-on until_true 60 lines 2400
first=$(owner a source)
second=$([ "$first" = a ] && echo b || echo a)
end "${worker[$first]}" KILL
check tasks-move-to-the-other-worker until_true 60 eval 'running $second source && running $second sink'
check lines-go-on-there until_true 60 lines 4000
start_worker "$first"
check worker-comes-back until_true 90 up "$first"
end "${worker[$second]}" KILL
check tasks-move-back until_true 90 eval 'running $first source && running $first sink'
check all-lines until_true 120 lines 8000
end "${worker[$first]}"

limit=60 jvm "$libs" org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$BROKERS" --topic lines --from-beginning --timeout-ms 8000 --isolation-level read_committed >"$WORK/topic.txt" 2>/dev/null || true
same topic-has-every-line-once "$(seq 1 8000 | md5sum)" "$(md5sum <"$WORK/topic.txt")"
same sink-has-every-line "$(seq 1 8000 | md5sum)" "$(sort -un "$WORK/out.txt" | md5sum)"
# Each line is the one after that before, or begins a repeat of earlier ones.
same sink-is-in-order "" "$(awk 'NR > 1 && $1 > last + 1 && $1 > most + 1 {print "after " last ": " $1; exit} {last = $1; if ($1 > most) most = $1}' "$WORK/out.txt")"
echo "Kafka Connect $version; the sink repeated $(($(wc -l <"$WORK/out.txt") - 8000)) lines"
verdict connect
