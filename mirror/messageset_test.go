package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/record/recordtest"
)

// oldLog is a partition that has lived since before Kafka 0.11: messages of v0, of
// v1, plain and compressed, with holes where a cleaner was, then batches of v2. fates
// are those of a model; the bytes are returned.
func oldLog(rng *rand.Rand) (l *sourceLog, all []byte) {
	l = &sourceLog{}
	for _, magic := range []byte{0, 1} {
		for codec := record.None; codec <= record.LZ4; codec++ {
			var set []record.Record
			at := l.end()
			for i := range 1 + rng.IntN(12) {
				at += rng.Int64N(3) * int64(min(i, 1)) // the first has the base offset
				r := record.Record{Offset: at, Timestamp: 1_400_000_000_000 + rng.Int64N(1000), Key: randomField(rng), Value: randomField(rng)}
				set, at = append(set, r), at+1
			}
			if codec == record.None {
				for _, r := range set {
					all = append(all, recordtest.Message(magic, 0, r)...)
				}
			} else {
				all = append(all, recordtest.Wrapper(magic, codec, 0, set...)...)
			}
			for _, r := range set {
				for l.end() < r.Offset {
					l.fates = append(l.fates, fate{reason: ledger.Compacted})
				}
				if magic == 0 {
					r.Timestamp = -1
				}
				l.fates = append(l.fates, fate{record: &r})
			}
		}
	}
	l.randomBatch(rng, record.Stamp{ProducerID: -1}, 0)
	return l, append(all, l.bytes()...)
}

// TestOldFormatsGoOverTheRecordPath: messages of the formats v0 and v1 arrive as the
// records that a reader of the source sees, to the byte, from wherever a copy begins
// and however large a batch the destination takes, and the bytes of batches behind them
// as they are.
func TestOldFormatsGoOverTheRecordPath(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		l, all := oldLog(rng)
		lim := roomy
		if seed%3 == 0 {
			lim.maxBatch = 400
		}
		position := rng.Int64N(l.end())
		chunks, next, err := stage(fetched{position: position, records: all}, lim)
		if err != nil || next != l.end() {
			t.Fatalf("seed %d: staged to %d of %d: %v", seed, next, l.end(), err)
		}
		checkChunks(t, seed, l, position, next, chunks, lim, rng)
		for _, c := range chunks {
			if c.path == ledger.Raw && c.from < l.batches[0].BaseOffset() {
				t.Errorf("seed %d: offset %d of an old format travels as bytes", seed, c.from)
			}
		}
	}
}

// TestADamagedOldMessageStopsTheCopy names the offset, and copies what lies before.
func TestADamagedOldMessageStopsTheCopy(t *testing.T) {
	var all []byte
	for i := range int64(5) {
		all = append(all, recordtest.Message(1, 0, record.Record{Offset: i, Value: fmt.Append(nil, i)})...)
	}
	all[len(all)-1] ^= 1
	chunks, next, err := stage(fetched{records: all}, roomy)
	var bad *BatchError
	if !errors.As(err, &bad) || bad.Offset != 4 || next != 4 || len(chunks) != 1 || chunks[0].records() != 4 {
		t.Errorf("%d chunks up to %d, %v", len(chunks), next, err)
	}
}

// TestDamagedOldMessagesAreNeverPutAside: so nobody is told to have them put aside,
// and everybody what does help.
func TestDamagedOldMessagesAreNeverPutAside(t *testing.T) {
	message := func(magic byte) []byte {
		m := recordtest.Message(magic, 0, record.Record{Value: []byte("x")})
		m[len(m)-1] ^= 1
		return m
	}
	unknown := recordtest.Message(1, 0, record.Record{Value: []byte("x")})
	unknown[16] = 3 // magic
	for name, b := range map[string][]byte{"v0": message(0), "v1": message(1), "no batch": unknown} {
		for _, poison := range []string{flow.PoisonStop, flow.PoisonQuarantine} {
			lim := roomy
			lim.rules, lim.home, lim.suspect = rulesOf(t, flow.Records{Poison: poison}), west, -1
			for range 3 { // what was corrupt before is put aside where it can be
				chunks, next, err := stage(fetched{records: b}, lim)
				v := classify(err)
				if len(chunks) != 0 || next != 0 || !errors.Is(err, errNotAside) || v.action != hold {
					t.Fatalf("%s, poison %s: %d chunks up to %d, %v, action %d", name, poison, len(chunks), next, err, v.action)
				}
				if strings.Contains(v.fix, "poison") || !strings.Contains(v.fix, "DeleteRecords") || !strings.Contains(v.fix, "onGap") {
					t.Errorf("%s, poison %s: to be mended by %q", name, poison, v.fix)
				}
				c := newCopier(Assignment{}, func() {}, &Metrics{})
				c.fault(err)
				lim.verify, lim.suspect = c.verify, c.damagedAt
			}
		}
	}
}

func TestOldFormatsCannotBePreserved(t *testing.T) {
	set := recordtest.Message(0, 0, record.Record{Value: []byte("v")})
	_, _, err := stageWhole(fetched{records: set}, 1, leap{}, roomy)
	if v := classify(err); !errors.Is(err, errOldFormat) || v.action != hold || v.fix == "" {
		t.Errorf("%v, to be mended by %q", err, v.fix)
	}
}

// TestOldFormatsKeepTheirCodec although what is made of them on the way is not compressed.
func TestOldFormatsKeepTheirCodec(t *testing.T) {
	records := []record.Record{{Offset: 3, Value: []byte("a")}, {Offset: 4, Value: []byte("b")}}
	for codec := record.None; codec <= record.LZ4; codec++ {
		b := recordtest.Wrapper(1, codec, 0, records...)
		if codec == record.None {
			b = slices.Concat(recordtest.Message(1, 0, records[0]), recordtest.Message(1, 0, records[1]))
		}
		for name, rules := range map[string]flow.Records{"copied": {}, "put aside": {Poison: flow.PoisonQuarantine}} {
			lim := roomy
			lim.rules, lim.home, lim.compacted = rulesOf(t, rules), west, name == "put aside"
			chunks, next, err := stage(fetched{position: 3, records: b}, lim)
			if err != nil || next != 5 || len(chunks) != 1 || chunks[0].batch.Attributes().Codec() != codec {
				t.Errorf("%v, %s: got %+v up to %d, %v", codec, name, chunks, next, err)
			}
		}
	}
}

// TestADamagedBatchWithWrongCountsIsNotPutAside: so nobody is told to have it put aside.
func TestADamagedBatchWithWrongCountsIsNotPutAside(t *testing.T) {
	good, err := record.Encode([]record.Record{{Value: []byte("a")}, {Value: []byte("b")}}, record.NoProducer(record.None))
	if err != nil {
		t.Fatal(err)
	}
	for name, lastDelta := range map[string]int32{"too many offsets": 7, "too few": 0, "none": -1} {
		for _, poison := range []string{flow.PoisonStop, flow.PoisonQuarantine} {
			b := slices.Clone(good)
			binary.BigEndian.PutUint32(b[23:], uint32(lastDelta)) // last offset delta; the checksum is wrong then, too
			lim := roomy
			lim.rules, lim.home, lim.verify = rulesOf(t, flow.Records{Poison: poison}), west, true
			chunks, next, err := stage(fetched{records: b}, lim)
			v := classify(err)
			if len(chunks) != 0 || next != 0 || !errors.Is(err, errNotAside) || v.action != hold {
				t.Fatalf("%s, poison %s: %d chunks up to %d, %v", name, poison, len(chunks), next, err)
			}
			if strings.Contains(v.fix, "poison") || !strings.Contains(v.fix, "DeleteRecords") {
				t.Errorf("%s, poison %s: to be mended by %q", name, poison, v.fix)
			}
		}
	}
}
