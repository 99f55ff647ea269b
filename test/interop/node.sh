#!/usr/bin/env bash
# kafkajs and @platformatic/kafka, over PLAINTEXT and over TLS with SCRAM-SHA-512, on
# the Node of node/package.json, which comes from npm as a package.
. "$(dirname "$0")/suite.sh"
need npm npm
install() { npm install --no-audit --no-fund --prefix "$WORK/node" >"$WORK/npm.log" 2>&1 || { tail -5 "$WORK/npm.log"; return 1; }; }
cp -r "$interop/node" "$WORK/node"
retry install
node=$WORK/node/node_modules/.bin/node
"$node" --version | grep -q '^v24\.' || { echo "npm installed no Node 24:"; tail -5 "$WORK/npm.log"; exit 1; }
start_target

export CA SUITE_USER
for client in kafkajs platformatic; do
	for connection in plain secure; do
		case $connection in
		plain) export BROKER=$BROKERS SECURE=0 ;;
		secure) export BROKER=$SECURE_BROKERS SECURE=1 ;;
		esac
		log=$WORK/$client-$connection.log
		PREFIX=$client/$connection timeout 300 "$node" "$WORK/node/$client.mjs" >>"$RESULTS" 2>"$log" || tail -40 "$log"
	done
done
echo "kafkajs and @platformatic/kafka on Node $("$node" --version)"
verdict node
