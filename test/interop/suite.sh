# Sourced by the suites: software of other people against a broker. The broker is
# the bundled one, freshly built, or with TARGET=kafka an Apache Kafka of the
# version in KAFKA_VERSION: the same script on both, so that what Apache Kafka
# passes is what the bundled broker is held to.
#
#   start_target       starts the broker on free ports of loopback and waits for it; sets
#                      BROKERS (PLAINTEXT), SCRAM_BROKERS (SASL_PLAINTEXT), SECURE_BROKERS
#                      (SASL_SSL), CA (PEM), SUITE_USER and SUITE_PASSWORD (SCRAM, PLAIN over
#                      TLS). That user may do everything; LIMITED_USER, of the same password,
#                      what begins with "limited-" and no more
#   kill_target        ends it with SIGKILL; start_target brings it back where it was. With
#                      KEEPER=1 before the first start a supervisor (keeper/) has the bundled
#                      broker's sockets, so that clients wait while it is away, and starts it
#                      itself; start_target waits for that
#   check NAME COMMAND notes whether COMMAND succeeds
#   same NAME WANT GOT notes whether the two are equal
#   verdict SUITE      compares what was noted with baseline/SUITE.txt, which a run on
#                      Apache Kafka with RECORD=1 writes, or with the file BASELINE; the script's
#                      last command
#
# Everything is ended by process id when the script ends. KEEP=folder keeps the
# logs. Every step has its own time limit, so that a suite ends by itself.
set -euo pipefail
interop=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$interop/../.." && pwd)
TARGET=${TARGET:-bundled}
KAFKA_VERSION=${KAFKA_VERSION:-4.1.1}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/waybill
WORK=$(mktemp -d)
RESULTS=$WORK/results
: >"$RESULTS"
SUITE_USER=suite LIMITED_USER=limited SUITE_PASSWORD=correct-horse
export SUITE_PASSWORD
CA=$WORK/ca.pem
case $TARGET in bundled | kafka) ;; *) echo "TARGET is bundled or kafka, not '$TARGET'" >&2; exit 2 ;; esac

# end PID [SIGNAL] ends a process that this script started and waits for it. Its
# first thread may be a zombie while others still have its ports and locks.
end() {
	kill "-${2:-TERM}" "$1" 2>/dev/null || true
	for _ in $(seq 1000); do
		grep -qs '^State:[[:space:]]*[^Z[:space:]]' /proc/"$1"/task/*/status || break
		sleep 0.01
	done
	kill -KILL "$1" 2>/dev/null || true
}
# Processes beside the broker that are to end with the script.
others=()
cleanup() {
	local pid
	for pid in "${others[@]}"; do end "$pid" KILL; done
	[ ! -s "$WORK/pid" ] || end "$(cat "$WORK/pid")" "${last_signal:-KILL}"
	if [ -n "${KEEP:-}" ]; then
		mkdir -p "$KEEP" && cp "$RESULTS" "$WORK"/*.log "$KEEP"/ 2>/dev/null || true
	fi
	rm -rf "$WORK"
}
trap cleanup EXIT

# retry COMMAND: downloads fail now and then for no fault of ours.
retry() {
	local i
	for i in 1 2 3 4; do
		"$@" && return
		echo "attempt $i of '$*' did not work" >&2
		sleep $((i * 5))
	done
	return 1
}

# need COMMAND PACKAGE installs a Debian package whose command is missing.
need() {
	command -v "$1" >/dev/null || retry bash -c "apt-get update -qq && apt-get install -y -qq $2 >/dev/null"
}

# A port that nobody listens on now, below those that the kernel hands out.
free_port() {
	local port
	while :; do
		port=$((15000 + RANDOM % 16000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo $port; return; }
	done
}

# jars VERSION prints the folder with Apache Kafka's jars of a version: the broker,
# the tools, Streams and Connect, with the tests that are published. Maven fills it
# once.
jars() {
	local dir=$cache/kafka-suite-$1
	if [ ! -d "$dir" ]; then
		need java openjdk-17-jre-headless
		need mvn maven
		mkdir -p "$cache"
		local fetch
		fetch=$(mktemp -d "$cache/fetch-XXXX")
		cp "$interop/java/pom.xml" "$fetch/"
		(cd "$fetch" && retry timeout 600 mvn -q -B dependency:copy-dependencies "-Dkafka.version=$1" -DoutputDirectory=lib >&2)
		rm -f "$fetch"/lib/slf4j-reload4j-*.jar # one backend of the logging facade for all versions
		mv -T "$fetch/lib" "$dir" 2>/dev/null || true # somebody else may have been first
		rm -rf "$fetch"
	fi
	echo "$dir"
}

# jvm LIBS CLASS [ARGUMENT ...] runs a class of Apache Kafka's or of ours. In the
# background, "exec=exec limit= jvm ... &" leaves its process id in $!; limit=SECONDS ends it.
# archive=FILE has classes as a run with -XX:ArchiveClassesAtExit left them: half the start.
jvm() {
	local libs=$1
	shift
	${exec:-} ${limit:+timeout "$limit"} java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
		-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS \
		-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info \
		${archive:+-XX:SharedArchiveFile="$archive" -Xlog:disable} -cp "$libs/*:$WORK/classes" "$@"
}

prepare_target() {
	[ ! -e "$CA" ] || return 0
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext 'subjectAltName=IP:127.0.0.1,DNS:localhost' \
		-keyout "$WORK/key.pem" -out "$CA" 2>/dev/null
	cat "$WORK/key.pem" "$CA" >"$WORK/keystore.pem"
	BROKERS=127.0.0.1:$(free_port) SCRAM_BROKERS=127.0.0.1:$(free_port) SECURE_BROKERS=127.0.0.1:$(free_port)
	DATA=$WORK/data
	if [ "$TARGET" = bundled ]; then
		(cd "$root" && retry go build -o "$WORK/" ./cmd/replicator ./test/interop/keeper)
		cat >"$WORK/broker.yaml" <<-YAML
			dataDir: $DATA
			listeners:
			  - {name: plain, address: "$BROKERS", protocol: PLAINTEXT}
			  - {name: scram, address: "$SCRAM_BROKERS", protocol: SASL_PLAINTEXT}
			  - {name: secure, address: "$SECURE_BROKERS", protocol: SASL_TLS, certFile: $CA, keyFile: $WORK/key.pem}
			authorizer: true
			superUsers: ["User:ANONYMOUS", "User:$SUITE_USER"]
			users:
			  - {name: $SUITE_USER, password: "\${env:SUITE_PASSWORD}"}
			  - {name: $LIMITED_USER, password: "\${env:SUITE_PASSWORD}"}
			acls:
			  - "User:$LIMITED_USER Allow All Topic:limited-* from *"
			  - "User:$LIMITED_USER Allow All Group:limited-* from *"
			  - "User:$LIMITED_USER Allow All TransactionalId:limited-* from *"
			groupInitialRebalanceDelay: 0s
			groupConsumerSessionTimeout: ${CONSUMER_SESSION:-45}s
			groupConsumerHeartbeatInterval: ${CONSUMER_HEARTBEAT:-5}s
		YAML
		return
	fi
	kafka_libs=$(jars "$KAFKA_VERSION")
	controller=127.0.0.1:$(free_port)
	cat >"$WORK/server.properties" <<-PROPERTIES
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@$controller
		listeners=PLAIN://$BROKERS,SCRAM://$SCRAM_BROKERS,SECURE://$SECURE_BROKERS,CONTROLLER://$controller
		advertised.listeners=PLAIN://$BROKERS,SCRAM://$SCRAM_BROKERS,SECURE://$SECURE_BROKERS
		listener.security.protocol.map=PLAIN:PLAINTEXT,SCRAM:SASL_PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT
		controller.listener.names=CONTROLLER
		inter.broker.listener.name=PLAIN
		sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN
		listener.name.scram.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.scram.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.secure.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_$SUITE_USER="$SUITE_PASSWORD" user_$LIMITED_USER="$SUITE_PASSWORD";
		listener.name.scram.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required;
		listener.name.secure.ssl.keystore.type=PEM
		listener.name.secure.ssl.keystore.location=$WORK/keystore.pem
		authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
		super.users=User:ANONYMOUS;User:$SUITE_USER
		log.dirs=$DATA
		num.partitions=1
		offsets.topic.num.partitions=8
		offsets.topic.replication.factor=1
		transaction.state.log.num.partitions=8
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		share.coordinator.state.topic.replication.factor=1
		share.coordinator.state.topic.min.isr=1
		group.initial.rebalance.delay.ms=0
		log.cleaner.dedupe.buffer.size=8388608
		num.network.threads=2
		num.io.threads=4
		broker.session.timeout.ms=3000
		broker.heartbeat.interval.ms=500
	PROPERTIES
	format_target
}

# An empty store, which the bundled broker makes itself.
format_target() {
	rm -rf "$DATA"
	[ "$TARGET" = kafka ] || return 0
	jvm "$kafka_libs" kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c "$WORK/server.properties" \
		--add-scram "SCRAM-SHA-256=[name=$SUITE_USER,password=$SUITE_PASSWORD]" \
		--add-scram "SCRAM-SHA-512=[name=$SUITE_USER,password=$SUITE_PASSWORD]" >"$WORK/format.log" 2>&1 || { cat "$WORK/format.log"; return 1; }
}

start_target() {
	prepare_target
	[ -z "${keeper:-}" ] || { await_target; return; } # it starts the next one itself
	[ ! -e "$WORK/broker.log" ] || mv "$WORK/broker.log" "$WORK/broker-$(date +%s%3N).log" # for KEEP
	local broker=("$WORK/replicator" broker --config "$WORK/broker.yaml")
	case $TARGET${KEEPER:-} in
	bundled) "${broker[@]}" >>"$WORK/broker.log" 2>&1 & disown ;;
	bundled1)
		"$WORK/keeper" -pid "$WORK/pid" -listen "$BROKERS,$SCRAM_BROKERS,$SECURE_BROKERS" "${broker[@]}" >>"$WORK/broker.log" 2>&1 & disown
		keeper=$!
		others+=("$keeper") ;;
	kafka*) exec=exec limit='' jvm "$kafka_libs" kafka.Kafka "$WORK/server.properties" >>"$WORK/broker.log" 2>&1 & disown ;;
	esac
	[ -n "${keeper:-}" ] || echo $! >"$WORK/pid"
	await_target
}
await_target() {
	local answers="timeout 5 $WORK/replicator topic list -b $BROKERS"
	[ "$TARGET" = bundled ] || answers="grep -q started $WORK/broker.log"
	for _ in $(seq 600); do
		if (exec 3<>"/dev/tcp/${SECURE_BROKERS/://}") 2>/dev/null && $answers >/dev/null 2>&1; then return 0; fi
		kill -0 "${keeper:-$(cat "$WORK/pid")}" 2>/dev/null || { tail -20 "$WORK/broker.log"; return 1; }
		sleep 0.1
	done
	echo "the broker did not come up:"
	tail -20 "$WORK/broker.log"
	return 1
}
kill_target() {
	end "$(cat "$WORK/pid")" KILL
	[ -n "${keeper:-}" ] || : >"$WORK/pid"
}
stop_target() { end "$(cat "$WORK/pid")"; : >"$WORK/pid"; }

# Names of checks have no blanks.
note() { echo "$1 $2" >>"$RESULTS"; }
check() { # name command ...
	local name=$1
	shift
	local code=0
	"$@" >"$WORK/check.log" 2>&1 || code=$?
	if [ $code = 0 ]; then note PASS "$name"; else
		note FAIL "$name"
		echo "FAIL $name: exit code $code; its last lines:"
		tail -8 "$WORK/check.log" | cut -c1-500 | sed 's/^/    /'
	fi
}
same() { # name want got
	if [ "$2" = "$3" ]; then note PASS "$1"; else
		note FAIL "$1"
		printf 'FAIL %s: want [%.400s], got [%.400s]\n' "$1" "$2" "$3"
	fi
}

# verdict SUITE [partial]: every outcome must be Apache Kafka's. A partial run (the
# caller picked some checks) is compared in what it ran.
verdict() {
	local baseline=${BASELINE:-$interop/baseline/$1.txt} differs=0 line name
	sort -u -o "$RESULTS" "$RESULTS"
	[ -e "$baseline" ] || [ "${RECORD:-}" = 1 ] || baseline=/dev/null # nothing is known: all must pass
	local passed failed skipped
	passed=$(grep -c '^PASS ' "$RESULTS" || true) failed=$(grep -c '^FAIL ' "$RESULTS" || true) skipped=$(grep -c '^SKIP ' "$RESULTS" || true)
	if [ "${RECORD:-}" = 1 ]; then
		[ "$TARGET" = kafka ] || { echo "RECORD=1 is for TARGET=kafka"; return 2; }
		{ echo "# Apache Kafka $KAFKA_VERSION: $passed passed, $failed failed, $skipped skipped"; cat "$RESULTS"; } >"$baseline"
	fi
	while read -r line; do
		name=${line#* }
		grep -qxF -- "$line" "$RESULTS" && continue
		if ! grep -q -- "^[A-Z]* ${name//[.[*\\]/?}$" <(sed 's/[.[*\\]/?/g' "$RESULTS"); then
			[ "${2:-}" = partial ] || { echo "differs: $name was not run (Apache Kafka: ${line%% *})"; differs=$((differs + 1)); }
		elif grep -qxF -- "PASS $name" "$RESULTS"; then
			echo "passes, where Apache Kafka has ${line%% *}: $name"
		else
			echo "differs: $name (Apache Kafka: ${line%% *})"
			differs=$((differs + 1))
		fi
	done < <(grep -v '^#' "$baseline")
	while read -r name; do
		grep -q "^[A-Z]* $(sed 's/[.[*\\]/\\&/g' <<<"$name")\$" "$baseline" && continue
		echo "differs: $name failed, which the baseline does not know"
		differs=$((differs + 1))
	done < <(sed -n 's/^FAIL //p' "$RESULTS")
	local against
	against=$(sed -n '1s/^# \([^:]*\):.*/\1/p' "$baseline")
	echo "$1 on ${TARGET/kafka/Apache Kafka $KAFKA_VERSION}: $passed passed, $failed failed, $skipped skipped; $([ $differs = 0 ] && echo "same as ${against:-nothing, no baseline}" || echo "$differs differ from ${against:-nothing, no baseline}")"
	[ "$differs" = 0 ] && [ "$passed" -gt 0 ]
}
