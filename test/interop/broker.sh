# Sourced by the suites: starts the bundled broker on loopback and ends it, by its
# process id, when the script does. Sets BROKERS, WORK and broker_pid.
#   start_broker [flag ...]   extra flags of 'replicator broker'
# With SECURE=1 it has TLS, SCRAM-SHA-512 and ACLs; then CA, SUSER and SPASS are set.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
WORK=$(mktemp -d)
broker_pid=
stop_broker() {
	[ -z "$broker_pid" ] || { kill "$broker_pid" 2>/dev/null || true; wait "$broker_pid" 2>/dev/null || true; }
	broker_pid=
}
trap 'stop_broker; rm -rf "$WORK"' EXIT

build_replicator() { (cd "$root" && go build -o "$WORK/replicator" ./cmd/replicator); }

start_broker() {
	rm -f "$WORK/address"
	"$WORK/replicator" broker --address-file "$WORK/address" "$@" >>"$WORK/broker.log" 2>&1 &
	broker_pid=$!
	for _ in $(seq 200); do
		[ -s "$WORK/address" ] && break
		kill -0 "$broker_pid" 2>/dev/null || { cat "$WORK/broker.log"; return 1; }
		sleep 0.05
	done
	BROKERS=$(awk '$1=="client"{print $2}' "$WORK/address")
	[ -n "$BROKERS" ] || { echo "the broker did not come up:"; cat "$WORK/broker.log"; return 1; }
}
