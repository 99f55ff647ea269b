#!/usr/bin/env bash
# Another client checks the demonstration: kcat, given the connection details that
# 'demo -o json' prints, must find in both datacenters what the demonstration claims.
. "$(dirname "$0")/suite.sh"
need kcat kcat
(cd "$root" && retry go build -o "$WORK/replicator" ./cmd/replicator)

"$WORK/replicator" demo --stay -o json --dir "$WORK/demo" >"$WORK/demo.json" 2>"$WORK/demo.log" &
demo=$! last_signal=TERM # it is ended with the script, and ends its own children
echo $demo >"$WORK/pid"
for _ in $(seq 200); do
	grep -q '^}' "$WORK/demo.json" && break
	kill -0 "$demo" 2>/dev/null || { cat "$WORK/demo.log"; exit 1; }
	sleep 0.3
done
# The document is indented: a figure is a line of its own.
figure() { sed -n "s/^  \"$1\": \([^,]*\),*$/\1/p" "$WORK/demo.json"; }
address() { sed -n "/^    \"$1\": {/,/^    }/s/.*\"bootstrap_servers\": \"\([^\"]*\)\".*/\1/p" "$WORK/demo.json"; }
[ "$(figure ok)" = true ] || { cat "$WORK/demo.log"; exit 1; }

records() { # datacenter topic: how many records a read_committed reader finds, foreign ones left out
	timeout 60 kcat -b "$(address "$1")" -X security.protocol=SASL_SSL -X sasl.mechanism=SCRAM-SHA-512 -X sasl.username=admin \
		-X sasl.password="$(cat "$WORK/demo/$1/admin.password")" -X ssl.ca.location="$WORK/demo/$1/ca.pem" \
		-C -t "$2" -o beginning -e -q -X isolation.level=read_committed -f '%h\n' | grep -vc demo-foreign
}
us=$(($(records us quakes) + $(records us quakes-live)))
eu=$(($(records eu quakes) + $(records eu quakes-live)))
echo "demo claims $(figure produced) produced, $(figure mirrored) mirrored; kcat finds $us in us, $eu in eu"
[ "$us" = "$(figure produced)" ] && [ "$eu" = "$(figure mirrored)" ]
