#!/usr/bin/env bash
# Runs every fuzz target of the module for a time each (default 10s).
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}
grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$file" | sed 's/func //' | while read -r target; do
		echo "fuzz $(dirname "$file") $target $time"
		go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" "$(dirname "$file")" </dev/null | tail -2
	done
done
