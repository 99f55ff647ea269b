#!/usr/bin/env bash
# confluent-kafka (librdkafka) and kafka-python, over PLAINTEXT and over TLS with SASL:
# SCRAM-SHA-256 for the first, PLAIN for the second. From the Python package index into
# a virtual environment.
. "$(dirname "$0")/suite.sh"
need python3 python3
python3 -m venv "$WORK/venv" 2>"$WORK/venv.log" || { need pyvenv python3-venv && python3 -m venv "$WORK/venv"; }
retry "$WORK/venv/bin/pip" install --quiet --disable-pip-version-check -r "$interop/python/requirements.txt"
start_target

export CA SUITE_USER
for client in confluent kafkapython; do
	for connection in plain secure; do
		case $connection in
		plain) export BROKER=$BROKERS SECURE=0 ;;
		secure) export BROKER=$SECURE_BROKERS SECURE=1 ;;
		esac
		log=$WORK/$client-$connection.log
		PREFIX=$client/$connection PYTHONDONTWRITEBYTECODE=1 timeout 400 "$WORK/venv/bin/python" "$interop/python/$client.py" >>"$RESULTS" 2>"$log" || tail -40 "$log"
	done
done
echo "$(grep -E '^(confluent-kafka|kafka-python)=' "$interop/python/requirements.txt" | xargs) on $("$WORK/venv/bin/python" --version)"
verdict python
