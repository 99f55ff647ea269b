#!/usr/bin/env bash
# franz-go's own integration tests (its kgo package): every test over PLAINTEXT, then
# every test over TLS with SCRAM-SHA-512.
#   ./franz-go.sh          the suite
#   ./franz-go.sh chaos    the tests of groups and transactions that move every record once,
#                          with the suite's own disturbances (KGO_TEST_CHAOS)
#   ./franz-go.sh crash    the suite while the broker is killed (SIGKILL) every ten seconds, and
#                          started by a supervisor that keeps its sockets; KEEPER= without one
# RUN=regex SKIP=regex pick tests, RECORDS is how many each moves, ROUNDS="plain tls" which
# connections. The tests mostly wait, for rebalances and metadata: so eight at a time.
. "$(dirname "$0")/suite.sh"
mode=${1:-suite}
run=${RUN:-}
rounds=${ROUNDS:-plain tls} records=${RECORDS:-500000} patience=${TIMEOUT:-15m}
case $mode in
suite) ;;
chaos) # its slow connections are a dialer of its own, which its client refuses together with TLS
	rounds=${ROUNDS:-plain}
	export KGO_TEST_CHAOS=1
	run=${RUN:-ETL|Etl}
	;;
crash) # kgo sends some requests once (FindCoordinator above all), and a refused connection is the end
	# of a group session: so the sockets are a supervisor's, and clients wait while the broker is away
	rounds=${ROUNDS:-plain} records=${RECORDS:-100000} KEEPER=${KEEPER-1}
	seeds=2 # addresses to begin with, as clients mostly have more than one: Ping tries each once
	# A member that vanished has a new session after each start: it must be shorter than the time between kills.
	CONSUMER_SESSION=8 CONSUMER_HEARTBEAT=1 ;;
*) echo "usage: $0 [chaos|crash]" >&2; exit 2 ;;
esac
version=$(cd "$root" && go list -m -f '{{.Version}}' github.com/twmb/franz-go)

# The tests are part of the module; they are built in a module of their own so
# that what only they need stays out of ours. Their clients know TLS but SCRAM only
# in two tests: for the round over TLS they get it where they get TLS.
mkdir "$WORK/suite" && cd "$WORK/suite"
go mod init suite >/dev/null 2>&1
module=$(retry go mod download -json "github.com/twmb/franz-go@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
cp -r "$module" "$WORK/franz-go" && chmod -R u+w "$WORK/franz-go" && cd "$WORK/franz-go"
sed -i 's/^\t\topts = append(opts, DialTLSConfig(testCert))$/\t\topts = append(opts, DialTLSConfig(testCert), SASL(saslScram))/' pkg/kgo/helpers_test.go
grep -q 'DialTLSConfig(testCert), SASL(saslScram)' pkg/kgo/helpers_test.go || { echo "the suite's helpers look different in $version"; exit 1; }
retry go test -c -trimpath -o "$WORK/kgo.test" ./pkg/kgo
cd pkg/kgo
start_target

if [ $mode = crash ]; then
	(
		trap - EXIT
		while sleep 10; do
			kill_target
			start_target || exit
			echo >>"$WORK/kills"
		done
	) &
	killer=$!
	disown
	others+=("$killer")
fi
export KGO_TEST_RF=1 KGO_TEST_RECORDS=$records KGO_LOG_LEVEL=${KGO_LOG_LEVEL:-none} KGO_TEST_SCRAM=$SUITE_USER:$SUITE_PASSWORD:512
skip=${SKIP:-}
for round in $rounds; do
	case $round in
	plain) export KGO_SEEDS=$BROKERS KGO_TEST_SCRAM_SEEDS=$SCRAM_BROKERS
		[ "${seeds:-1}" = 1 ] || export KGO_SEEDS=$BROKERS,$BROKERS KGO_TEST_SCRAM_SEEDS=$SCRAM_BROKERS,$SCRAM_BROKERS ;;
	tls) export KGO_SEEDS=$SECURE_BROKERS KGO_TEST_SCRAM_SEEDS=$SCRAM_BROKERS KGO_TEST_TLS=ca:$CA
		skip="^TestIssue769\$${SKIP:+|$SKIP}" ;; # sets a dialer, which a client with TLS refuses
	esac
	log=$WORK/kgo-$round.log
	"$WORK/kgo.test" -test.v ${run:+-test.run "$run"} ${skip:+-test.skip "$skip"} -test.parallel 8 -test.timeout "$patience" >"$log" 2>&1 || true
	# What kgo tests without a broker is no matter of ours: its fuzz targets' seeds.
	sed -nE "/: Fuzz/d; s!^ *--- (PASS|FAIL|SKIP): ([^ ]+) .*!\1 $round/\2!p" "$log" >>"$RESULTS"
	check "$round/ran-to-its-end" grep -qxE 'PASS|FAIL' "$log" # no panic, no timeout
	grep -E '^ *--- FAIL|^panic:|^fatal' -A3 "$log" | head -40 || true
done
if [ $mode = crash ]; then
	check killed-to-the-end kill -0 "$killer" # it gives up when the broker does not come back
	end "$killer" KILL
	echo "the broker was killed $(wc -l <"$WORK/kills") times"
fi
echo "franz-go $version, $records records a test"
name=franz-go
[ $mode = suite ] || name=franz-go-$mode
if [ $mode$TARGET = crashbundled ]; then
	# Held to what Apache Kafka passes while nobody kills it: it passes less than that with kills.
	BASELINE=$WORK/undisturbed.txt
	grep -E "^#| (${rounds// /|})/" "$interop/baseline/franz-go.txt" >"$BASELINE"
fi
verdict $name ${RUN:+partial} ${SKIP:+partial}
