#!/usr/bin/env bash
# Runs every fuzz target of the module for a time each (default 10s). Each package
# is built once, with coverage, for all its targets.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A worker that is still busy when the time is over can make the run fail with
# "context deadline exceeded" and no input; only an input is a find.
run() { # package binary target
	local log=$work/log i
	for i in 1 2 3; do
		if (cd "$1" && "$2" -test.run='^$' -test.fuzz="^$3\$" -test.fuzztime="$time" -test.fuzzcachedir="$work/cache/$3") >"$log" 2>&1; then
			grep -E 'elapsed|PASS' "$log" | tail -2 | head -1
			return 0
		fi
		grep -q 'Failing input written' "$log" && break
		grep -q 'context deadline exceeded' "$log" || break
	done
	cat "$log"
	return 1
}

count=0
for dir in $(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do
	go test -c -fuzz=Fuzz -o "$work/fuzz.test" "$dir"
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/func //' | sort -u); do
		if ! result=$(run "$dir" "$work/fuzz.test" "$target"); then
			printf 'fuzz %s %s: FAILED\n%s\n' "$dir" "$target" "$result"
			exit 1
		fi
		echo "fuzz $dir $target: ${result#fuzz: }"
		count=$((count + 1))
	done
done
echo "fuzz: $count targets, $time each"
