#!/usr/bin/env bash
# Builds the binary as it is shipped, for linux/amd64, and fails if it weighs more than
# it may: MAX_BYTES and MAX_MODULES. It also names what keeps the linker from leaving
# methods out that nobody calls, which costs several MB: reflection that looks methods
# up by name.
set -euo pipefail
cd "$(dirname "$0")/.."

max_bytes=${MAX_BYTES:-35000000}
max_modules=${MAX_MODULES:-109}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go build -tags nethttpomithttp2 -trimpath -ldflags='-s -w -dumpdep' -o "$work/replicator" ./cmd/replicator 2>"$work/graph"; then
	grep -v -- ' -> ' "$work/graph" >&2
	exit 1
fi
bytes=$(stat -c %s "$work/replicator")
modules=$(go version -m "$work/replicator" | grep -c $'^\tdep\t')
echo "size: $bytes bytes of $max_bytes, $modules modules of $max_modules"

failed=0
if ((bytes > max_bytes)); then
	echo "size: the binary has $((bytes - max_bytes)) bytes too many; go tool nm -size -sort size of an unstripped one says what they are" >&2
	failed=1
fi
if ((modules > max_modules)); then
	echo "size: $((modules - max_modules)) modules too many are linked; go version -m lists them" >&2
	failed=1
fi
if grep ' -> .* <ReflectMethod>$' "$work/graph" >"$work/reflect"; then
	echo "size: no method can be left out, because these look methods up by reflection:" >&2
	cat "$work/reflect" >&2
	failed=1
fi
exit $failed
