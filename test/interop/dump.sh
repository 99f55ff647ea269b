#!/usr/bin/env bash
# Kafka's DumpLogSegments, of both versions, reads the files that a broker leaves after a clean
# stop: closed segments, the active ones, compacted ones, their indexes, and the internal topics
# with its decoders. What it prints is compared with what was produced, record by record.
. "$(dirname "$0")/suite.sh"
versions=${VERSIONS:-3.9.1 4.1.1}
need java openjdk-17-jdk-headless
need javac openjdk-17-jdk-headless
for v in $versions 4.1.1; do jars "$v" >/dev/null; done
mkdir "$WORK/classes"
javac -nowarn -d "$WORK/classes" -cp "$(jars 4.1.1)/*" "$interop/java/Segments.java" 2>&1 | grep -v '^Note:' || true
start_target
want=$WORK/want
printf 'bootstrap.servers=%s\n' "$BROKERS" >"$WORK/connection.properties"
check produced eval 'limit=300 jvm "$(jars 4.1.1)" Segments "$WORK/connection.properties" "$want"'

directory() { # of a topic's partition
	[ "$TARGET" = kafka ] && echo "$DATA/$1-$2" || echo "$DATA/logs/$(sed -n "s/^$1 //p" "$want/topics")/$2"
}
files() { # topic, endings: all files of its partitions, as the tool takes them
	local topic=$1 partition=0 dir ending
	shift
	while dir=$(directory "$topic" $partition) && [ -d "$dir" ]; do
		for ending in "$@"; do find "$dir" -name "*.$ending"; done
		partition=$((partition + 1))
	done | sort | paste -sd,
}
# closed TOPIC prints the segments that take no more records.
closed() { files "$1" log | tr , '\n' | sed '$d'; }
# active TOPIC prints the first offset of the segment that takes records.
active() { files "$1" log | sed -E 's/.*\/0*([0-9]+)\.log/\1/'; }
compacted() { [ "$(closed dump-compacted | xargs cat | wc -c)" -lt 200000 ]; }
deadline=$((SECONDS + 120))
until compacted || [ $SECONDS -gt $deadline ]; do sleep 0.5; done
check compacted compacted

tool() { # output, arguments: what the tool prints, complaints too
	local out=$1
	shift
	limit=200 jvm "$libs" kafka.tools.DumpLogSegments "$@" >"$out" 2>"$out.err" && cat "$out.err" >>"$out"
}
batches() { grep '^baseOffset: ' "$1"; }
field() { sed -nE "s/(.* )?$1: ([^ ]+).*/\2/p"; }
# of what the broker decides the lines have nothing: its own timestamps, and the markers'
records() { grep '^| ' "$1" | sed -E 's/^(\| offset: [0-9]+) .* endTxnMarker: ([A-Z]+) .*/\1 \2/; s/(LogAppendTime:) [0-9]+/\1/'; }
complaints() { grep -v ' payload: ' "$1" | grep -iE 'mismatch|exception|out of order|found timestamp|not found|isvalid: false|corrupt|skipping|error' | head -3 || true; }
# uncovered: places where a batch does not begin at the end of the one before it, in file and offsets,
# and segments whose batches do not fill the file
uncovered() {
	awk '/^Dumping /{if (file) print at, file; file = $2; at = 0} /^baseOffset: /{
		for (i = 1; i < NF; i++) f[$i] = $(i + 1)
		if (f["position:"] != at || next_ != "" && f["baseOffset:"] != next_ || f["count:"] != f["lastOffset:"] - f["baseOffset:"] + 1) print "hole at", $0
		at += f["size:"]; next_ = f["lastOffset:"] + 1 } END {print at, file}' "$1" |
		while read -r at file; do [ "$at" = "$(stat -c %s "$file" 2>/dev/null)" ] || echo "$at $file"; done
}
# cleaned TOPIC FIRST prints those lines that compaction leaves below the offset FIRST, and all others.
cleaned() {
	awk -v first="$2" '
		FILENAME ~ /aborted$/ {aborted[++n] = $1; until_[n] = $2; next}
		{lines[++count] = $0; key = ""; for (i = 4; i < NF; i++) if ($i == "key:") key = $(i + 1); keys[count] = key; offset[count] = $3}
		key != "" {for (a = 1; a <= n; a++) if ($3 >= aborted[a] && $3 < until_[a]) {gone[count] = 1; next} if ($3 < first) last[key] = count}
		END {for (c = 1; c <= count; c++) if (offset[c] >= first || keys[c] == "" || !gone[c] && last[keys[c]] == c) print lines[c]}
	' "$want/$1.aborted" "$want/$1"
}
# aborted TOPIC DUMP prints what the transaction indexes must list: by the producer of the batch that began it.
aborted() {
	awk 'FNR == NR {for (i = 1; i < NF; i++) if ($i == "producerId:") producer[$2] = $(i + 1); next}
		{print "version: 0 producerId: " producer[$1] " firstOffset: " $1 " lastOffset: " $2 " lastStableOffset: " $3}' <(batches "$2") "$want/$1.aborted"
}

# log TOPIC CODEC PRODUCERS: every record of a topic.
log() {
	local topic=$1 out=$WORK/dump-$version-$1 name=$version/${1#dump-}
	check "$name/is-read" tool "$out" --deep-iteration --print-data-log --files "$(files "$topic" log)"
	same "$name/segments" yes "$([ "$(closed "$topic" | wc -l)" -ge 2 ] && echo yes || files "$topic" log)"
	if [ "$topic" = dump-compacted ]; then
		same "$name/records" "$(cleaned "$topic" "$(active "$topic")" | md5sum)" "$(records "$out" | md5sum)"
		same "$name/is-less" yes "$([ "$(records "$out" | wc -l)" -lt $(($(wc -l <"$want/$topic") / 2)) ] && echo yes || records "$out" | wc -l)"
		# The tool complains, rightly, of the offsets that are gone.
		sed -i '/^Non-consecutive/d; / is followed by /d' "$out"
	else
		same "$name/records" "$(md5sum <"$want/$topic")" "$(records "$out" | md5sum)"
		same "$name/counts" "$(wc -l <"$want/$topic")" "$(batches "$out" | field count | awk '{n += $1} END {print n}')"
		same "$name/covered" "" "$(uncovered "$out" | head -3)"
		same "$name/codec" "$2" "$(batches "$out" | grep 'isControl: false' | field compresscodec | sort -u)"
	fi
	same "$name/is-sound" "" "$(complaints "$out")$(grep -A2 '^Non-consecutive' "$out")"
	same "$name/producers" "$3" "$(batches "$out" | field producerId | awk '$1 < 0 {n++} END {print n == NR ? "none" : n ? "mixed" : "all"}')"
}

# Segments that are closed do not wait for a stop.
running() {
	local topic=dump-transactions out=$WORK/dump-running
	check running/is-read tool "$out" --deep-iteration --print-data-log --files "$(closed "$topic" | paste -sd,)"
	same running/records "$(awk -v first="$(active "$topic")" '$3 < first' "$want/$topic" | md5sum)" "$(records "$out" | md5sum)"
	same running/is-sound "" "$(complaints "$out")"
}

# The indexes of all of them. The tool holds each entry against its batch.
indexes() {
	local out=$WORK/dump-$version-indexes topic list
	list=$(for topic in "${topics[@]}"; do files "$topic" index timeindex; done | paste -sd,)
	check "$version/indexes-are-read" tool "$out" --files "$list"
	same "$version/indexes-are-sound" "" "$(complaints "$out")"
	same "$version/indexes-have-entries" "" "$(awk '/^Dumping /{sub(/\/[^\/]*$/, "", $2); dir = $2; all[dir]} /^offset: .* position: /{o[dir]++} /^timestamp: .* offset: /{t[dir]++}
		END {for (dir in all) if (o[dir] < 20 || t[dir] < 5) print dir, o[dir], t[dir]}' "$out")"
	check "$version/indexes-sanity" tool "$out" --index-sanity-check --files "$list"
	same "$version/indexes-are-sane" "$(tr , '\n' <<<"$list" | wc -l)" "$(grep -cE 'passed sanity check|is empty' "$out")"
	check "$version/indexes-verify" tool "$out" --verify-index-only --files "$list"
	same "$version/indexes-are-verified" "" "$(complaints "$out")"
	check "$version/aborted-are-read" tool "$out" --files "$(for topic in dump-compacted dump-transactions; do files "$topic" txnindex; done | paste -sd,)"
	same "$version/aborted" "$(aborted dump-transactions "$WORK/dump-$version-dump-transactions")" "$(awk -v dir="$(directory dump-transactions 0)" '/^Dumping /{on = index($2, dir "/") == 1} on && /^version: /' "$out")"
}

# The internal topics, by the decoders for them.
internal() {
	local out=$WORK/dump-$version-offsets
	check "$version/offsets-decoder" tool "$out" --offsets-decoder --files "$(files __consumer_offsets log)"
	same "$version/offsets-are-sound" "" "$(complaints "$out")"
	same "$version/offsets" "$(sort -s -k1,1 "$want/commits")" "$(sed -nE 's/.* key: \{"type":"1","data":\{"group":"([^"]*)","topic":"([^"]*)","partition":([0-9]+)\}\}/\1 \2 \3/p' "$out" |
		sed -E 's/ payload: <DELETE>//; s/payload: .*"offset":([0-9]+),.*"metadata":"([^"]*)".*/\1 \2/' | sort -s -k1,1)"
	same "$version/group-has-members" yes "$(grep -qE '"type":"2","data":\{"group":"dump-classic"\}\} payload: .*"protocolType":"consumer","generation":1,"protocol":"range","leader":"[^"]+".*"members":\[\{"memberId":' "$out" && echo yes)"
	same "$version/consumer-group-is-there" "3 5 6 7 8" "$(sed -nE 's/.* key: \{"type":"([0-9]+)","data":\{"groupId":"dump-consumer".*\} payload: \{.*/\1/p' "$out" | sort -u | xargs)"
	same "$version/offsets-transactions" "4 2" "$(grep -c 'endTxnMarker: COMMIT' "$out") $(grep -c 'endTxnMarker: ABORT' "$out")"
	out=$WORK/dump-$version-transactions
	check "$version/transactions-decoder" tool "$out" --transaction-log-decoder --files "$(files __transaction_state log)"
	same "$version/transactions-are-sound" "" "$(complaints "$out")"
	same "$version/transactions" "$(sort -s -k1,1 "$want/transactions")" "$(sed -nE 's/.*"transactionalId":"([^"]+)".*"transactionStatus":([45]),.*/\1 \2/p; s/.*transactionalId=([^ ]+) payload: .*state=(Complete[A-Z][a-z]+),.*/\1 \2/p' "$out" |
		sed 's/ 4$/ CompleteCommit/; s/ 5$/ CompleteAbort/' | sort -s -k1,1)"
}

topics=(dump-none dump-gzip dump-snappy dump-lz4 dump-zstd dump-plain dump-append-time dump-transactions dump-compacted)
libs=$(jars 4.1.1)
running
stop_target
for version in $versions; do
	libs=$(jars "$version")
	for codec in none gzip snappy lz4 zstd; do log "dump-$codec" "$codec" all; done
	log dump-plain none none
	log dump-append-time snappy all
	log dump-transactions none all
	log dump-compacted "" all
	indexes
	internal
done
verdict dump $([ "$versions" = "3.9.1 4.1.1" ] || echo partial)
