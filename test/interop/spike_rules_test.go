//go:build interop

package interop

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/record/recordtest"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// rule is one thing that a broker demands of a client's batch, and what it
// answers to a batch that breaks it.
type rule struct {
	name    string
	configs map[string]string // of the topic
	batch   func(t *testing.T) []byte
	version int16 // of Produce, 0: the newest that a lane uses
	want    map[string]string
	stored  string // what the log then has instead of what was sent
}

// everywhere is an answer of every version.
func everywhere(code string) map[string]string { return map[string]string{"": code} }

// crafted is b with some bytes changed and a checksum that is right again.
func crafted(b record.Batch, change func(b record.Batch)) []byte {
	own := append(record.Batch(nil), b...)
	change(own)
	binary.BigEndian.PutUint32(own[17:], crc32.Checksum(own[21:], crc32.MakeTable(crc32.Castagnoli)))
	return own
}

func withAttributes(set record.Attributes) func(record.Batch) {
	return func(b record.Batch) {
		binary.BigEndian.PutUint16(b[21:], uint16(b.Attributes()|set))
	}
}

// withDelta gives the second record of an uncompressed batch another offset
// delta, and compresses the whole afterwards if asked.
func withDelta(t *testing.T, delta byte, codec record.Codec) []byte {
	b := append(record.Batch(nil), batch(t, "delta", 2, time.Now())...)
	second := bytes.LastIndex(b, []byte{2, 1}) // offset delta 1, then the null key
	if second < record.HeaderSize {
		t.Fatal("the second record is not where it should be")
	}
	b[second] = delta << 1
	section, err := record.Compress(codec, b.Records())
	must(t, "compress", err)
	b = append(b[:record.HeaderSize:record.HeaderSize], section...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	return crafted(b, withAttributes(record.Attributes(codec)))
}

// old are two messages as they were before Kafka 0.11.
func old(magic byte, codec record.Codec) []byte {
	one, two := record.Record{Timestamp: time.Now().UnixMilli(), Value: []byte("one")}, record.Record{Offset: 1, Value: []byte("two")}
	if codec != record.None {
		return recordtest.Wrapper(magic, codec, 0, one, two)
	}
	return append(recordtest.Message(magic, 0, one), recordtest.Message(magic, 0, two)...)
}

func encoded(t *testing.T, codec record.Codec, records ...record.Record) []byte {
	b, err := record.Encode(records, record.NoProducer(codec))
	must(t, "encode", err)
	return b
}

func rules() []rule {
	plain := func(t *testing.T) record.Batch { return batch(t, "r", 3, time.Now()) }
	at := func(at time.Time) func(t *testing.T) []byte {
		return func(t *testing.T) []byte { return batch(t, "r", 3, at) }
	}
	change := func(f func(record.Batch)) func(t *testing.T) []byte {
		return func(t *testing.T) []byte { return crafted(plain(t), f) }
	}
	return []rule{
		{name: "a good batch", batch: func(t *testing.T) []byte { return plain(t) }, want: everywhere("NONE")},
		{name: "two batches of a partition in a request", batch: func(t *testing.T) []byte { return append(plain(t), plain(t)...) }, want: everywhere("INVALID_RECORD")},
		{name: "base offset not 0", batch: change(func(b record.Batch) { b.SetBaseOffset(7) }), want: everywhere("INVALID_RECORD")},
		{name: "leader epoch of the source", batch: change(func(b record.Batch) { b.SetLeaderEpoch(57) }), want: everywhere("NONE")},
		{name: "checksum wrong", batch: func(t *testing.T) []byte { b := plain(t); b[len(b)-1]++; return b }, want: everywhere("CORRUPT_MESSAGE")},
		{name: "a hole at the end (last offset delta 3, count 3)", batch: change(func(b record.Batch) { b[26] = 3 }), want: everywhere("INVALID_RECORD")},
		{name: "no records (count 0)", batch: change(func(b record.Batch) { b[60] = 0 }), want: everywhere("INVALID_RECORD")},
		{name: "a hole inside, uncompressed", batch: func(t *testing.T) []byte { return withDelta(t, 5, record.None) }, want: everywhere("NONE")},
		{name: "a hole inside, gzip", batch: func(t *testing.T) []byte { return withDelta(t, 5, record.Gzip) }, want: everywhere("UNKNOWN_SERVER_ERROR")},
		{name: "control bit", batch: change(withAttributes(0x20)), want: everywhere("INVALID_RECORD")},
		{name: "producer id without a sequence", batch: change(func(b record.Batch) { b.Restamp(record.Stamp{ProducerID: 5, ProducerEpoch: 0, BaseSequence: -1}) }), want: everywhere("INVALID_RECORD")},
		{name: "LogAppendTime bit into CreateTime", batch: change(withAttributes(0x08)), want: everywhere("NONE"), stored: "bit cleared"},
		{name: "LogAppendTime bit into LogAppendTime", configs: map[string]string{"message.timestamp.type": "LogAppendTime"}, batch: change(withAttributes(0x08)), want: everywhere("INVALID_TIMESTAMP")},
		{name: "2018 where the topic takes a day", configs: map[string]string{"message.timestamp.before.max.ms": "86400000"}, batch: at(longAgo), want: everywhere("INVALID_TIMESTAMP")},
		{name: "2018 by default", batch: at(longAgo), want: everywhere("NONE")},
		{name: "two hours ahead by default", batch: at(time.Now().Add(2 * time.Hour)), want: map[string]string{"3": "NONE", "4": "INVALID_TIMESTAMP"}},
		{name: "null key, compacted topic", configs: map[string]string{"cleanup.policy": "compact"}, batch: func(t *testing.T) []byte { return plain(t) }, want: everywhere("INVALID_RECORD")},
		{name: "larger than max.message.bytes", configs: map[string]string{"max.message.bytes": "60"}, batch: at(time.Now()), want: everywhere("MESSAGE_TOO_LARGE")},
		{name: "topic recompresses", configs: map[string]string{"compression.type": "gzip"}, batch: func(t *testing.T) []byte { return plain(t) }, want: everywhere("NONE"), stored: "other bytes"},
		{name: "zstd at Produce v6", version: 6, batch: func(t *testing.T) []byte {
			return encoded(t, record.Zstd, record.Record{Value: []byte("v"), Timestamp: time.Now().UnixMilli()})
		}, want: everywhere("UNSUPPORTED_COMPRESSION_TYPE")},
		{name: "transactional bit, no transaction", batch: change(withAttributes(0x10)), want: everywhere("TRANSACTIONAL_ID_AUTHORIZATION_FAILED")},
		{name: "a message of format v1", batch: func(*testing.T) []byte { return old(1, record.None) }, want: everywhere("INVALID_RECORD")},
		{name: "a message of format v0", batch: func(*testing.T) []byte { return old(0, record.None) }, want: everywhere("INVALID_RECORD")},
		{name: "compressed messages of format v1", batch: func(*testing.T) []byte { return old(1, record.Gzip) }, want: everywhere("INVALID_RECORD")},
		{name: "delete horizon bit", batch: change(withAttributes(0x40)), want: everywhere("NONE"), stored: "bit kept"},
	}
}

var longAgo = time.Date(2018, 5, 1, 0, 0, 0, 0, time.UTC)

// TestSpikeRules sends batches that break one rule each.
func TestSpikeRules(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		c := b.Cluster(apachekafka.Admin)
		conn := dial(t, c)
		for _, r := range rules() {
			t.Run(r.name, func(t *testing.T) {
				topic := strings.Map(func(c rune) rune {
					if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
						return c
					}
					return '.'
				}, "rule-"+strings.ToLower(r.name))
				createTopic(t, c, topic, 1, r.configs)
				version := r.version
				if version == 0 {
					version = maxProduce
				}
				p := tp(topic, 0)
				sent := record.Batch(r.batch(t))
				got, err := acks(t.Context(), conn.Send(t.Context(), produceRequest(nil, map[flow.TopicPartition]record.Batch{p: sent}), version))
				must(t, "produce", err)
				want := r.want[""] + r.want[b.Version[:1]]
				expect(t, r.name, got[p].Err, want)
				log, err := fetchAll(t.Context(), conn, p)
				must(t, "fetch", err)
				if want != "NONE" || len(log) != 1 {
					if len(log) != 0 {
						t.Errorf("the log has %d batches, want none", len(log))
					}
					return
				}
				if stored := difference(sent, log[0]); stored != r.stored {
					t.Errorf("stored: %q, want %q", stored, r.stored)
				}
			})
		}
	})
}

// difference says in what a stored batch differs from the one that was sent.
func difference(sent, stored record.Batch) string {
	flags := func(b record.Batch) record.Attributes { return b.Attributes() &^ 7 }
	switch {
	case flags(sent) != flags(stored):
		return "bit cleared"
	case !bytes.Equal(sent.Records(), stored.Records()):
		return "other bytes"
	case stored.Attributes().DeleteHorizon():
		return "bit kept"
	}
	return ""
}

// TestSpikeFetch: a fetch begins with the whole batch that holds the offset, and
// may end in the middle of one; sequences wrap to 0.
func TestSpikeFetch(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, "fetch", 1, nil)
		p := tp("fetch", 0)
		l := newLane(t, c, "fetch")
		must(t, "add", l.add(ctx, p))
		l.seq[p] = 1<<31 - 2
		for range 4 {
			_, err := l.produce(ctx, p, l.stamped(p, three(t, "a")))
			must(t, "produce", err)
		}
		if got, want := l.seq[p], int32(10); got != want {
			t.Errorf("the sequence is at %d, want %d", got, want)
		}
		must(t, "commit", l.end(ctx, true))
		got, err := fetch(ctx, l.conn, p, 4, false, 8<<20)
		must(t, "fetch", err)
		if base := got.Batches[0].BaseOffset(); base != 3 {
			t.Errorf("a fetch from offset 4 begins at %d, want 3", base)
		}
		whole := int32(len(got.Batches[0]))
		got, err = fetch(ctx, l.conn, p, 4, false, whole+10)
		must(t, "fetch", err)
		if len(got.Batches) != 1 || !got.PartialAtTheEnd {
			t.Errorf("a fetch of a batch and ten bytes has %d batches, partial end %v", len(got.Batches), got.PartialAtTheEnd)
		}
		got, err = fetch(ctx, l.conn, p, 4, false, 10)
		must(t, "fetch", err)
		if len(got.Batches) != 1 || got.PartialAtTheEnd {
			t.Errorf("a fetch of ten bytes has %d batches, partial end %v: want the first whole", len(got.Batches), got.PartialAtTheEnd)
		}
	})
}
