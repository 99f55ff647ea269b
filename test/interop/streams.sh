#!/usr/bin/env bash
# Kafka Streams with exactly_once_v2: a word count whose instances are killed (SIGKILL)
# and come back, with their state and without it from a changelog that was compacted
# meanwhile, every update checked; and Kafka's own
# StreamsSmokeTest, which checks itself, with an instance killed.
#   PARTS="wordcount smoke" picks
. "$(dirname "$0")/suite.sh"
version=${VERSION:-4.1.1}
parts=${PARTS:-wordcount smoke}
need java openjdk-17-jdk-headless
need javac openjdk-17-jdk-headless
libs=$(jars "$version")
mkdir "$WORK/classes"
javac -nowarn -d "$WORK/classes" -cp "$libs/*" "$interop/java/WordCount.java" 2>&1 | grep -v '^Note:' || true
start_target

# A process of an application, which is ended with the script.
declare -A instance
launch() { # name, log, class and arguments
	local name=$1 log=$2
	shift 2
	exec=exec jvm "$libs" "$@" >>"$WORK/$log.log" 2>&1 & disown
	instance[$name]=$!
	others+=($!)
}
murder() { end "${instance[$1]}" KILL; }

wordcount() {
	local first=12000 lines=20000 connection=$WORK/words.properties i
	echo "bootstrap.servers=$BROKERS" >"$connection"
	for i in a b; do printf 'bootstrap.servers=%s\nstate.dir=%s\n' "$BROKERS" "$WORK/words-$i" >"$WORK/words-$i.properties"; done
	check wordcount/topics eval 'limit=60 jvm "$libs" WordCount create "$connection"'
	launch load words-load WordCount produce "$connection" 0 $first
	launch a words-a WordCount run "$WORK/words-a.properties"
	launch b words-b WordCount run "$WORK/words-b.properties"
	reached() { check "wordcount/$1" eval "limit=180 jvm \"\$libs\" WordCount await \"$connection\" $2"; }
	reached begins 8000
	murder a
	reached goes-on-without-the-first 16000
	murder b
	launch a words-a WordCount run "$WORK/words-a.properties"
	reached goes-on-with-its-state $((3 * first))
	check wordcount/changelog-is-compacted eval "limit=240 jvm \"\$libs\" WordCount compact \"$connection\" $((3 * first))"
	murder a
	rm -rf "$WORK/words-b"
	launch load words-load WordCount produce "$connection" $first $lines
	launch b words-b-anew WordCount run "$WORK/words-b.properties"
	reached goes-on-from-the-changelog $((3 * first + 12000))
	# All words, but far from all their updates.
	local restored
	restored=$(awk '$1 == "restored" {n += $3} END {print n + 0}' "$WORK/words-b-anew.log")
	same wordcount/restores-what-compaction-left yes "$([ "$restored" -ge 12 ] && [ "$restored" -lt $((3 * first / 2)) ] && echo yes || echo "$restored records")"
	launch a words-a WordCount run "$WORK/words-a.properties"
	check wordcount/every-update-once eval "limit=240 jvm \"\$libs\" WordCount verify \"$connection\" $lines"
	cat "$WORK/check.log"
	murder a
	murder b
	check wordcount/reset eval 'limit=60 jvm "$libs" org.apache.kafka.tools.StreamsResetter --bootstrap-server "$BROKERS" --application-id wordcount --input-topics words-in --force'
	check wordcount/is-reset eval 'limit=60 jvm "$libs" org.apache.kafka.tools.TopicCommand --bootstrap-server "$BROKERS" --list | { ! grep wordcount-; }'
}

topics() { # recreates the topics of a test
	local t
	# Names of Streams' own topics follow the application's.
	for t in $(limit=60 jvm "$libs" org.apache.kafka.tools.TopicCommand --bootstrap-server "$BROKERS" --list 2>/dev/null | grep -v '^__\|^words'); do
		limit=60 jvm "$libs" org.apache.kafka.tools.TopicCommand --bootstrap-server "$BROKERS" --delete --topic "$t" >/dev/null 2>&1
	done
	for t in "$@"; do
		limit=60 jvm "$libs" org.apache.kafka.tools.TopicCommand --bootstrap-server "$BROKERS" --create --topic "$t" --partitions 5 --replication-factor 1 >/dev/null 2>&1
	done
}
settings() { # name: the properties file of an instance
	printf 'bootstrap.servers=%s\nprocessing.guarantee=exactly_once_v2\nstate.dir=%s\nsession.timeout.ms=10000\n' "$BROKERS" "$WORK/$1" >"$WORK/$1.properties"
	echo "$WORK/$1.properties"
}

smoke() {
	topics data echo max min min-suppressed min-raw dif sum sws-raw sws-suppressed cnt avg tagg
	local class=org.apache.kafka.streams.tests.StreamsSmokeTest
	launch first smoke-first $class "$(settings smoke-first)" process
	launch second smoke-second $class "$(settings smoke-second)" process
	launch driver smoke-driver $class "$(settings smoke-driver)" run
	sleep 40
	murder first
	launch third smoke-third $class "$(settings smoke-first)" process
	local driver=${instance[driver]}
	for _ in $(seq 600); do
		[ -d "/proc/$driver" ] || break
		sleep 1
	done
	end "$driver" KILL
	grep -E '^(SUCCESS|FAILURE|FAILED|ALL-RECORDS-DELIVERED|PROCESSED)' "$WORK/smoke-driver.log" || tail -20 "$WORK/smoke-driver.log"
	same smoke/result SUCCESS "$(grep -xE 'SUCCESS|FAILURE' "$WORK/smoke-driver.log")"
	same smoke/records ALL-RECORDS-DELIVERED "$(grep -m1 -xE 'ALL-RECORDS-DELIVERED|PROCESSED-(MORE|LESS)-THAN-GENERATED' "$WORK/smoke-driver.log")"
	murder second
	murder third
}

for part in $parts; do $part; done
echo "Kafka Streams $version"
verdict streams $([ "$parts" = "wordcount smoke" ] || echo partial)
