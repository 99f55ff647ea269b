package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/internal/record"
)

func testTopic(configs map[string]string) *topic {
	return &topic{Topic: &controller.Topic{Name: "t"}, config: topicConfigOf(configs, logShare{})}
}

func testBatch(t testing.TB, s record.Stamp, records ...record.Record) record.Batch {
	t.Helper()
	b, err := record.Encode(records, s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recrc makes a batch's checksum right again.
func recrc(b record.Batch) record.Batch {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func edit(b record.Batch, at int, bytes ...byte) record.Batch {
	copy(b[at:], bytes)
	return recrc(b)
}

func TestCheckProduced(t *testing.T) {
	now := time.Now().UnixMilli()
	rec := func(key string, at int64) record.Record {
		r := record.Record{Timestamp: at, Value: []byte(strings.Repeat("v", 40))}
		if key != "" {
			r.Key = []byte(key)
		}
		return r
	}
	none, zstd := record.NoProducer(record.None), record.NoProducer(record.Zstd)
	plain := func() record.Batch { return testBatch(t, none, rec("k", now), rec("", now+1)) }
	compact := map[string]string{"cleanup.policy": "compact"}
	for _, c := range []struct {
		name     string
		configs  map[string]string
		version  int16
		records  []byte
		want     *kerr.Error
		failures int
	}{
		{"plain", nil, 3, plain(), nil, 0},
		{"zstd", nil, 7, testBatch(t, zstd, rec("k", now)), nil, 0},
		{"headers", nil, 3, testBatch(t, none, record.Record{Timestamp: now, Headers: []record.Header{{Key: "a"}, {Key: "b", Value: []byte("c")}}}), nil, 0},
		{"zstd on an old version", nil, 6, testBatch(t, zstd, rec("k", now)), kerr.UnsupportedCompressionType, 0},
		{"nothing", nil, 9, nil, kerr.InvalidRecord, 0},
		{"cut off", nil, 9, plain()[:70], kerr.CorruptMessage, 0},
		{"two batches", nil, 9, append(plain(), plain()...), kerr.InvalidRecord, 0},
		{"old format", nil, 9, edit(plain(), 16, 1), kerr.InvalidRecord, 0},
		{"flipped bit", nil, 9, func() []byte { b := plain(); b[80] ^= 1; return b }(), kerr.CorruptMessage, 0},
		{"control bit", nil, 9, edit(plain(), 22, 0x20), kerr.InvalidRecord, 0},
		{"LogAppendTime bit", nil, 9, edit(plain(), 22, 0x08), kerr.InvalidTimestamp, 0},
		{"unknown codec", nil, 9, edit(plain(), 22, 0x05), kerr.UnsupportedCompressionType, 0},
		{"codec that is not so", nil, 9, edit(plain(), 22, 0x01), kerr.CorruptMessage, 0},
		{"more records claimed", nil, 9, edit(plain(), 57, 0, 0, 0, 3), kerr.InvalidRecord, 0},
		{"fewer records claimed", nil, 9, edit(edit(plain(), 57, 0, 0, 0, 1), 23, 0, 0, 0, 0), kerr.InvalidRecord, 0},
		{"many records claimed", nil, 9, edit(edit(plain(), 57, 0x7f, 0xff, 0xff, 0xff), 23, 0x7f, 0xff, 0xff, 0xfe), kerr.InvalidRecord, 0},
		{"transactional without producer", nil, 9, edit(plain(), 22, 0x10), kerr.InvalidRecord, 0},
		{"producer without sequence", nil, 9, testBatch(t, record.Stamp{ProducerID: 5, BaseSequence: -1}, rec("k", now)), kerr.InvalidRecord, 0},
		{"too large", map[string]string{"max.message.bytes": "100"}, 9, plain(), kerr.MessageTooLarge, 0},
		{"larger than a segment", map[string]string{"segment.bytes": "100"}, 9, plain(), kerr.RecordListTooLarge, 0},
		{"future", nil, 9, testBatch(t, none, rec("k", now), rec("k", now+7200_000)), kerr.InvalidTimestamp, 1},
		{"past", map[string]string{"message.timestamp.before.max.ms": "1000"}, 9, testBatch(t, none, rec("k", now-5000), rec("k", now)), kerr.InvalidTimestamp, 1},
		{"past is fine by default", nil, 9, testBatch(t, none, rec("k", 1)), nil, 0},
		{"future in a LogAppendTime topic", map[string]string{"message.timestamp.type": "LogAppendTime"}, 9, testBatch(t, none, rec("k", now+7200_000)), nil, 0},
		{"header claims the future", nil, 9, edit(plain(), 35, 0x7f), nil, 0},
		{"an offset of its own", nil, 9, edit(plain(), 7, 1), kerr.InvalidRecord, 0},
		{"no timestamp", nil, 9, testBatch(t, none, rec("k", -1)), nil, 0},
		{"keys in a compacted topic", compact, 9, testBatch(t, none, rec("a", now), rec("b", now)), nil, 0},
		{"no keys in a compacted topic", compact, 9, testBatch(t, none, rec("", now), rec("b", now), rec("", now)), kerr.InvalidRecord, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &Broker{decompress: make(chan struct{}, 1)}
			_, failures, err := b.checkProduced(testTopic(c.configs), &kmsg.ProduceRequest{Version: c.version}, c.records)
			if got := kafkaError(err); got != c.want || len(failures) != c.failures {
				t.Errorf("got %v (%v), %d failures", got, err, len(failures))
			}
		})
	}
}

// TestATopicsCompressionIsThatOfItsBatches whatever they come with; all else of
// them stays.
func TestATopicsCompressionIsThatOfItsBatches(t *testing.T) {
	now := time.Now().UnixMilli()
	records := []record.Record{
		{Timestamp: now, Key: []byte("a"), Value: bytes.Repeat([]byte("v"), 2000), Headers: []record.Header{{Key: "h", Value: []byte("1")}}},
		{Timestamp: now + 5, Value: []byte("w")},
	}
	codecs := map[string]record.Codec{"uncompressed": record.None, "gzip": record.Gzip, "snappy": record.Snappy, "lz4": record.LZ4, "zstd": record.Zstd}
	for came := range codecs {
		stamp := record.NoProducer(codecs[came])
		stamp.ProducerID, stamp.ProducerEpoch, stamp.BaseSequence = 7, 3, 40
		sent := testBatch(t, stamp, records...)
		want, err := sent.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		for kept, codec := range codecs {
			b := &Broker{decompress: make(chan struct{}, 1)}
			got, _, err := b.checkProduced(testTopic(map[string]string{"compression.type": kept}), &kmsg.ProduceRequest{Version: 9}, bytes.Clone(sent))
			if err != nil {
				t.Errorf("%s to %s: %v", came, kept, err)
				continue
			}
			if err := got.Check(); err != nil || got.Attributes().Codec() != codec || len(b.decompress) != 0 {
				t.Errorf("%s to %s: codec %v, %v", came, kept, got.Attributes().Codec(), err)
			}
			if read, err := got.Decode(1 << 20); err != nil || !reflect.DeepEqual(read, want) {
				t.Errorf("%s to %s: got %v, %v", came, kept, read, err)
			}
			if got.ProducerID() != 7 || got.ProducerEpoch() != 3 || got.BaseSequence() != 40 || got.MaxTimestamp() != now+5 || got.LastOffsetDelta() != 1 {
				t.Errorf("%s to %s: header %x", came, kept, got[:record.HeaderSize])
			}
			if came == kept && !bytes.Equal(got, sent) {
				t.Errorf("%s: compressed anew", kept)
			}
		}
		// What it grows to counts.
		b := &Broker{decompress: make(chan struct{}, 1)}
		small := testTopic(map[string]string{"compression.type": "uncompressed", "max.message.bytes": "1000"})
		if _, _, err := b.checkProduced(small, &kmsg.ProduceRequest{Version: 9}, sent); kafkaError(err) != kerr.MessageTooLarge {
			t.Errorf("%s, too large without: got %v", came, err)
		}
	}
}

// TestRecordsThatOtherClientsCannotRead: Java's consumers read numbers of 32 bits
// from five bytes at the most, and end at a record that takes more.
func TestRecordsThatOtherClientsCannotRead(t *testing.T) {
	long := []byte{0x82, 0x80, 0x80, 0x80, 0x80, 0} // 1, in six bytes
	key, value, none := []byte{2, 'k'}, []byte{2, 'v'}, []byte{0}
	for name, c := range map[string]struct {
		length, timestamp, offset, key, headers []byte
		baseTime                                int64
		want                                    *kerr.Error
	}{
		"a sound record":            {nil, none, none, key, none, 1, nil},
		"a long timestamp delta":    {nil, long, none, key, none, 1, nil},
		"a long record length":      {append([]byte{0x94, 0x80, 0x80, 0x80, 0x80}, 0), none, none, key, none, 1, kerr.InvalidRecord},
		"a long offset delta":       {nil, none, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0}, key, none, 1, kerr.InvalidRecord},
		"a long key length":         {nil, none, none, slices.Concat(long, []byte{'k'}), none, 1, kerr.InvalidRecord},
		"a long count of headers":   {nil, none, none, key, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0}, 1, kerr.InvalidRecord},
		"a header without a key":    {nil, none, none, key, []byte{2, 1, 1}, 1, kerr.InvalidRecord},
		"a header without a value":  {nil, none, none, key, []byte{2, 2, 'h', 1}, 1, nil},
		"a timestamp past all time": {nil, []byte{2}, none, key, none, math.MaxInt64, kerr.InvalidTimestamp},
		"a number above 32 bits":    {nil, none, none, []byte{0x80, 0x80, 0x80, 0x80, 0x20}, none, 1, kerr.InvalidRecord},
	} {
		t.Run(name, func(t *testing.T) {
			body := slices.Concat(none, c.timestamp, c.offset, c.key, value, c.headers)
			length := c.length
			if length == nil {
				length = binary.AppendVarint(nil, int64(len(body)))
			}
			b := testBatch(t, record.NoProducer(record.None), record.Record{Timestamp: c.baseTime})[:record.HeaderSize]
			b = append(append(b, length...), body...)
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
			broker := &Broker{decompress: make(chan struct{}, 1)}
			_, _, err := broker.checkProduced(testTopic(nil), &kmsg.ProduceRequest{Version: 9}, recrc(b))
			if got := kafkaError(err); got != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestTheGreatestTimestampIsThatOfTheRecords(t *testing.T) {
	now := time.Now().UnixMilli()
	for name, codec := range map[string]record.Codec{"plain": record.None, "compressed": record.Zstd} {
		batch := testBatch(t, record.NoProducer(codec), record.Record{Timestamp: now}, record.Record{Timestamp: now - 5})
		claimed := edit(batch, 35, 0, 0, 0, 0, 0, 0, 0, 9)
		b := &Broker{decompress: make(chan struct{}, 1)}
		got, _, err := b.checkProduced(testTopic(nil), &kmsg.ProduceRequest{Version: 9}, claimed)
		if err != nil || got.MaxTimestamp() != now {
			t.Errorf("%s: greatest timestamp %d, %v, want %d", name, got.MaxTimestamp(), err, now)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABombIsDefused(t *testing.T) {
	bomb, err := record.Compress(record.Zstd, make([]byte, maxDecompressed+1))
	if err != nil {
		t.Fatal(err)
	}
	b := testBatch(t, record.NoProducer(record.Zstd), record.Record{Value: []byte("x")})[:record.HeaderSize]
	b = append(b, bomb...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-12))
	broker := &Broker{decompress: make(chan struct{}, 1)}
	_, _, err = broker.checkProduced(testTopic(nil), &kmsg.ProduceRequest{Version: 9}, recrc(b))
	if !errors.Is(err, kerr.MessageTooLarge) {
		t.Fatalf("%d bytes that become %d: %v", len(b), maxDecompressed+1, err)
	}
}

func FuzzCheckProduced(f *testing.F) {
	for codec := record.None; codec <= record.Zstd; codec++ {
		b, err := record.Encode([]record.Record{{Key: []byte("k"), Value: []byte("v"), Headers: []record.Header{{Key: "h"}}}, {}}, record.NoProducer(codec))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= record.HeaderSize {
			recrc(data)
		}
		b := &Broker{decompress: make(chan struct{}, 1)}
		batch, _, err := b.checkProduced(testTopic(nil), &kmsg.ProduceRequest{Version: 9}, data)
		if err != nil {
			return
		}
		// What is accepted can be read.
		records, err := batch.Decode(maxDecompressed)
		if err != nil || len(records) != int(batch.Count()) {
			t.Fatalf("accepted, but decodes to %d records: %v", len(records), err)
		}
	})
}
