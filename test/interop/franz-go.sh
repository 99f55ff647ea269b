#!/usr/bin/env bash
# franz-go's own integration tests (its kgo package) against the bundled broker.
#   RUN=regex RECORDS=500000 TIMEOUT=9m ./franz-go.sh
# The tests mostly wait, for rebalances and for metadata: so eight at a time.
cd "$(dirname "$0")"
. ./broker.sh
version=$(cd "$root" && go list -m -f '{{.Version}}' github.com/twmb/franz-go)
build_replicator
# A second listener is for the suite's tests of SCRAM.
export SUITE_PASSWORD=correct-horse
printf 'dataDir: %s\nlisteners:\n  - {name: client, address: "127.0.0.1:0", protocol: PLAINTEXT}\n  - {name: scram, address: "127.0.0.1:0", protocol: SASL_PLAINTEXT}\nusers:\n  - {name: suite, password: "${env:SUITE_PASSWORD}"}\n' \
	"$WORK/data" >"$WORK/broker.yaml"
start_broker --config "$WORK/broker.yaml"
scram=$(awk '$1=="scram"{print $2}' "$WORK/address")

# The tests are part of the module; they are built in a module of their own so
# that what only they need stays out of ours.
mkdir "$WORK/suite" && cd "$WORK/suite"
go mod init suite >/dev/null 2>&1
source=$(go mod download -json "github.com/twmb/franz-go@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
(cd "$source" && go test -c -o "$WORK/kgo.test" ./pkg/kgo)
cd "$source/pkg/kgo"
set +e
KGO_SEEDS=$BROKERS KGO_TEST_RF=1 KGO_TEST_RECORDS=${RECORDS:-500000} KGO_LOG_LEVEL=${KGO_LOG_LEVEL:-none} \
	KGO_TEST_SCRAM_SEEDS=$scram KGO_TEST_SCRAM=suite:$SUITE_PASSWORD:512 \
	"$WORK/kgo.test" -test.v ${RUN:+-test.run "$RUN"} ${SKIP:+-test.skip "$SKIP"} -test.parallel 8 -test.timeout "${TIMEOUT:-9m}" >"$WORK/kgo.log" 2>&1
rc=$?
passed=$(grep -c '^--- PASS' "$WORK/kgo.log")
failed=$(grep -c '^--- FAIL' "$WORK/kgo.log")
skipped=$(grep -c '^--- SKIP' "$WORK/kgo.log")
grep -- '--- FAIL' "$WORK/kgo.log" | head -40
grep -E '^panic:|^fatal' -A5 "$WORK/kgo.log" | head -20
[ -z "${KEEP_LOG:-}" ] || cp "$WORK/kgo.log" "$WORK/broker.log" "$KEEP_LOG"
echo "franz-go $version: $passed passed, $failed failed, $skipped skipped"
[ "$rc" = 0 ] && [ "$passed" -gt 0 ]
