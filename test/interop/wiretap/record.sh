#!/usr/bin/env bash
# Makes broker/testdata/frames.gz anew: requests that franz-go, librdkafka (kcat,
# confluent-kafka), kafka-python, kafkajs, @platformatic/kafka and Java's clients and tools
# sent to a bundled broker, of every version. Needs Go, Node, Python 3, Java 17 and Maven,
# and takes a few minutes. Whatever does not succeed is said and goes on: broker's
# TestFramesCoverTheTable tells whether the file is whole.
. "$(dirname "$0")/../suite.sh"
need npm npm
need kcat kcat
need javac openjdk-17-jdk-headless
new=$WORK/frames.gz
(cd "$root" && go build -o "$WORK/wiretap" ./test/interop/wiretap)
export PREFIX=recorded SECURE=0 CA=/dev/null SUITE_USER PYTHONDONTWRITEBYTECODE=1 WORK

# tapped NEWEST COMMAND ... runs clients that are told of no version above NEWEST.
# BROKER is where they go, and a Java client's properties have it too.
tapped() {
	local newest=$1
	shift
	echo "--- ${*##*/} (newest $newest)"
	"$WORK/wiretap" -out "$new" -newest "$newest" timeout -k 5 120 bash -c 'export BROKER=$BROKERS; echo "bootstrap.servers=$BROKERS" >"$WORK/tapped.properties"; "$@"' - "$@" >"$WORK/tapped.log" 2>&1 || tail -5 "$WORK/tapped.log"
	tail -1 "$WORK/tapped.log"
}

echo "--- franz-go"
"$WORK/wiretap" -out "$new"

kcat_() { # what kcat does
	seq 9 | kcat -b "$BROKER" -P -t kcat -z "$1" -X enable.idempotence=true -H h=a
	kcat -b "$BROKER" -G kcat kcat -X auto.offset.reset=earliest -c 9 -q
	seq 9 | kcat -b "$BROKER" -P -t kcat -X transactional.id=kcat
	kcat -b "$BROKER" -Q -t kcat:0:-1 && kcat -b "$BROKER" -L
}
export -f kcat_
for codec in none zstd; do tapped 99 kcat_ $codec; done

python3 -m venv "$WORK/venv"
retry "$WORK/venv/bin/pip" install --quiet --disable-pip-version-check -r "$interop/python/requirements.txt"
for client in confluent kafkapython; do tapped 99 "$WORK/venv/bin/python" "$interop/python/$client.py"; done

cp -r "$interop/node" "$WORK/node"
retry npm install --no-audit --no-fund --prefix "$WORK/node" >"$WORK/npm.log" 2>&1
for client in kafkajs platformatic; do tapped 99 "$WORK/node/node_modules/.bin/node" "$WORK/node/$client.mjs"; done
tapped 4 "$WORK/node/node_modules/.bin/node" "$WORK/node/platformatic.mjs" # AddPartitionsToTxn

for version in 3.9.1 4.1.1; do
	libs=$(jars "$version")
	mkdir -p "$WORK/$version"
	javac -nowarn -d "$WORK/$version" -cp "$libs/*" "$interop/java/Clients.java" 2>/dev/null
	java=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$WORK/$version:$libs/*")
	tapped 99 "${java[@]}" Clients "$WORK/tapped.properties" recorded
	for newest in 2 1 0; do
		tapped $newest bash -c '"$@" --bootstrap-server "$BROKER" describe --status' - "${java[@]}" org.apache.kafka.tools.MetadataQuorumCommand
		tapped $newest bash -c '"$@" cluster-id --bootstrap-server "$BROKER"' - "${java[@]}" org.apache.kafka.tools.ClusterTool
	done
done
cp "$new" "$root/broker/testdata/frames.gz"
ls -l "$root/broker/testdata/frames.gz"
