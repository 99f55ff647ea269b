#!/usr/bin/env bash
# The OpenLineage events of lineage/export against the official Python client, whose
# classes are generated from the official JSON Schemas. It needs no broker.
. "$(dirname "$0")/suite.sh"
need python3 python3
python3 -m venv "$WORK/venv" 2>"$WORK/venv.log" || { need pyvenv python3-venv && python3 -m venv "$WORK/venv"; }
retry "$WORK/venv/bin/pip" install --quiet --disable-pip-version-check -r "$interop/openlineage/requirements.txt"
(cd "$root" && retry go build -o "$WORK/" ./test/interop/openlineage)
"$WORK/openlineage" | PYTHONDONTWRITEBYTECODE=1 timeout 120 "$WORK/venv/bin/python" "$interop/openlineage/events.py" >>"$RESULTS"
verdict openlineage
