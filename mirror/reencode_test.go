package mirror

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

func rulesOf(t testing.TB, r flow.Records) *rules {
	t.Helper()
	if r.Poison == "" {
		r.Poison = flow.PoisonStop
	}
	out, err := newRules(&r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var west = home{"west-id", "orders", 3}

// randomField is null, empty, or some bytes.
func randomField(rng *rand.Rand) []byte {
	switch rng.IntN(4) {
	case 0:
		return nil
	case 1:
		return []byte{}
	}
	b := make([]byte, rng.IntN(60))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func randomRecord(rng *rand.Rand, offset int64) record.Record {
	r := record.Record{Offset: offset, Timestamp: rng.Int64N(2e12) - 1, Key: randomField(rng), Value: randomField(rng)}
	for range rng.IntN(4) { // keys may repeat
		r.Headers = append(r.Headers, record.Header{Key: fmt.Sprint("h", rng.IntN(2)), Value: randomField(rng)})
	}
	return r
}

func equalRecord(a, b *record.Record) bool {
	same := func(x, y []byte) bool { return (x == nil) == (y == nil) && string(x) == string(y) }
	if a.Timestamp != b.Timestamp || !same(a.Key, b.Key) || !same(a.Value, b.Value) || len(a.Headers) != len(b.Headers) {
		return false
	}
	for i := range a.Headers {
		if a.Headers[i].Key != b.Headers[i].Key || !same(a.Headers[i].Value, b.Headers[i].Value) {
			return false
		}
	}
	return true
}

// TestTheRecordPathIsExact sends random records from every codec to every codec,
// through a filter and in pieces of every size, and compares keys, values,
// headers, timestamps and what of them is null.
func TestTheRecordPathIsExact(t *testing.T) {
	targets := []string{"preserve", "none", "gzip", "snappy", "lz4", "zstd"}
	for from := record.None; from <= record.Zstd; from++ {
		for _, to := range targets {
			for seed := range uint64(20) {
				rng := rand.New(rand.NewPCG(seed, uint64(from)))
				base := rng.Int64N(1 << 40)
				var records []record.Record
				for o := base; len(records) < 1+rng.IntN(40) || len(records) == 0; o += 1 + rng.Int64N(3) {
					records = append(records, randomRecord(rng, o))
				}
				last := records[len(records)-1].Offset
				b := holeyBatch(records, base, last, record.Stamp{ProducerID: 7, Attributes: record.Attributes(from)})
				headers := seed%2 == 0
				r := rulesOf(t, flow.Records{Filter: "offset % 5 != 0", Compression: to, Headers: headers})
				lim := limits{maxBatch: 1 << 20, maxDecode: 1 << 20, rules: r, home: west}
				if seed%3 == 0 {
					lim.maxBatch = 700
				}
				chunks, next, err := stage(fetched{position: base, records: b}, lim)
				if err != nil || next != last+1 {
					t.Fatalf("%v to %s, seed %d: staged to %d, %v", from, to, seed, next, err)
				}
				got := map[int64]record.Record{}
				var filtered int64
				for _, c := range chunks {
					for _, g := range c.gaps {
						if g.Reason == ledger.Filtered {
							filtered += g.Count
						}
					}
					if c.batch == nil {
						continue
					}
					if want := r.codecOf(b.Attributes().Codec()); c.batch.Attributes().Codec() != want {
						t.Fatalf("codec %v, want %v", c.batch.Attributes().Codec(), want)
					}
					out, err := c.batch.Decode(1 << 20)
					if err != nil {
						t.Fatal(err)
					}
					for _, run := range c.runs {
						if digest := record.CanonicalDigest(out[:run.count]); c.path != ledger.Raw && digest != run.digest {
							t.Fatalf("digest %v, want %v", run.digest, digest)
						}
						for i := range run.count {
							got[run.source+i] = out[i]
						}
						out = out[run.count:]
					}
				}
				for _, want := range records {
					r, ok := got[want.Offset]
					if ok != (want.Offset%5 != 0) {
						t.Fatalf("offset %d was copied: %v", want.Offset, ok)
					}
					if !ok {
						filtered--
						continue
					}
					if headers {
						want.Headers = append(want.Headers[:len(want.Headers):len(want.Headers)], west.headers(want.Offset, want.Timestamp)...)
					}
					if !equalRecord(&r, &want) {
						t.Fatalf("%v to %s, seed %d: offset %d is %+v, want %+v", from, to, seed, want.Offset, r, want)
					}
				}
				if filtered != 0 {
					t.Fatalf("%d more offsets are declared as filtered than are", filtered)
				}
			}
		}
	}
}

func paths(chunks []chunk) string {
	var out []string
	for _, c := range chunks {
		text := map[ledger.Path]string{0: "gap", ledger.Raw: "raw", ledger.Reencoded: "reencoded", ledger.Altered: "altered"}[c.path]
		if c.aside != nil {
			text = fmt.Sprintf("aside-%d", c.batch.Count())
		}
		text += fmt.Sprintf("[%d,%d)", c.from, c.next)
		for _, g := range c.gaps {
			text += fmt.Sprintf("-%v[%d,%d)", g.Reason, g.Source, g.Source+g.Count)
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// letters is a batch from offset 10 on with one record for each letter: its value,
// or for "-" none, and for "." a hole.
func letters(text string, codec record.Codec) record.Batch {
	var records []record.Record
	for i, c := range text {
		r := record.Record{Offset: 10 + int64(i), Timestamp: 1000 + int64(i), Key: []byte("k"), Value: []byte{byte(c)}}
		switch c {
		case '.':
			continue
		case '-':
			r.Key = nil
		case 'L':
			r.Value = make([]byte, 1000)
		case 'o':
			r.Timestamp = 10
		case 'n':
			r.Timestamp = 1 << 40
		}
		records = append(records, r)
	}
	return holeyBatch(records, 10, 10+int64(len(text))-1, record.Stamp{ProducerID: -1, Attributes: record.Attributes(codec)})
}

func TestWhichPathABatchTakes(t *testing.T) {
	quarantine := func(r flow.Records) flow.Records { r.Poison = flow.PoisonQuarantine; return r }
	onlyA := flow.Records{Filter: `value == "a"`}
	star := "*"
	for _, c := range []struct {
		name  string
		batch record.Batch
		rules flow.Records
		lim   limits
		want  string
		err   string // part of it
	}{
		{"all pass", letters("aaa", record.None), onlyA, limits{}, "raw[10,13)", ""},
		{"all pass, compressed", letters("aaa", record.Zstd), onlyA, limits{}, "raw[10,13)", ""},
		{"none passes", letters("bbb", record.None), onlyA, limits{}, "gap[10,13)-filtered[10,13)", ""},
		{"some pass", letters("abbab", record.None), onlyA, limits{}, "reencoded[10,15)-filtered[11,13)-filtered[14,15)", ""},
		{"some pass, with holes", letters("a.b.a", record.None), onlyA, limits{}, "reencoded[10,15)-compacted[11,12)-filtered[12,13)-compacted[13,14)", ""},
		{"masked", letters("ab", record.None), flow.Records{Mask: []flow.MaskRule{{Replace: &star}}}, limits{}, "altered[10,12)", ""},
		{"headers", letters("ab", record.None), flow.Records{Headers: true}, limits{}, "altered[10,12)", ""},
		{"another codec", letters("ab", record.None), flow.Records{Compression: "lz4"}, limits{}, "reencoded[10,12)", ""},
		{"the codec that it has", letters("ab", record.LZ4), flow.Records{Compression: "lz4"}, limits{}, "raw[10,12)", ""},
		{"looked at", letters("ab", record.None), flow.Records{}, limits{careful: true}, "raw[10,12)", ""},

		{"no key, stop", letters("a-a", record.None), flow.Records{}, limits{careful: true, compacted: true}, "reencoded[10,11)", "offset 11: a record cannot be copied: it has no key"},
		{"no key, quarantine", letters("a-a", record.None), quarantine(flow.Records{}), limits{careful: true, compacted: true}, "reencoded[10,11) aside-1[11,12)-quarantined[11,12) reencoded[12,13)", ""},
		{"no key, not compacted", letters("a-a", record.None), quarantine(flow.Records{}), limits{careful: true}, "raw[10,13)", ""},
		{"several in a row", letters("-.b-a-", record.None), quarantine(flow.Records{Filter: `value != "b"`}), limits{compacted: true}, "aside-2[10,14)-quarantined[10,11)-compacted[11,12)-filtered[12,13)-quarantined[13,14) reencoded[14,15) aside-1[15,16)-quarantined[15,16)", ""},
		{"too old and too new", letters("aon", record.None), quarantine(flow.Records{}), limits{careful: true, now: 5000, before: 4500, after: 1000}, "reencoded[10,11) aside-2[11,13)-quarantined[11,13)", ""},
		{"time does not matter", letters("aon", record.None), quarantine(flow.Records{}), limits{careful: true, appendTime: true, now: 5000, before: 4500, after: 1000}, "raw[10,13)", ""},
		{"too large", letters("aLa", record.None), quarantine(flow.Records{}), limits{maxBatch: 300}, "reencoded[10,11) aside-1[11,12)-quarantined[11,12) reencoded[12,13)", ""},
		{"too large, stop", letters("a.La", record.None), flow.Records{}, limits{maxBatch: 300}, "reencoded[10,12)-compacted[11,12)", "offset 12: a record cannot be copied"},
		{"not JSON to a filter", letters("1a2", record.None), quarantine(flow.Records{Filter: "json > 1"}), limits{}, "aside-1[10,12)-filtered[10,11)-quarantined[11,12) reencoded[12,13)", ""},
		{"not JSON to a mask", letters("1a", record.None), quarantine(flow.Records{Mask: []flow.MaskRule{{Field: "x", Remove: true}}}), limits{}, "altered[10,11) aside-1[11,12)-quarantined[11,12)", ""},
		{"not JSON to a mask, stop", letters("1a", record.None), flow.Records{Mask: []flow.MaskRule{{Field: "x", Remove: true}}}, limits{}, "altered[10,11)", "to be masked, and it is not JSON"},
	} {
		c.lim.rules, c.lim.home, c.lim.maxDecode = rulesOf(t, c.rules), west, 1<<20
		if c.lim.maxBatch == 0 {
			c.lim.maxBatch = 1 << 20
		}
		chunks, _, err := stage(fetched{position: 10, records: c.batch}, c.lim)
		if got := paths(chunks); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}

// TestQuarantineHoldsWhatWasThere: the record as it is at the source, where that
// is, and why it is here.
func TestQuarantineHoldsWhatWasThere(t *testing.T) {
	r := rulesOf(t, flow.Records{Poison: flow.PoisonQuarantine, Headers: true, Mask: []flow.MaskRule{{Field: "x", Remove: true}}})
	in := record.Record{Offset: 5, Timestamp: 77, Key: []byte{0}, Value: []byte("text"), Headers: []record.Header{{Key: "own"}}}
	chunks, _, err := stage(fetched{position: 5, records: holeyBatch([]record.Record{in}, 5, 5, record.Stamp{})}, limits{maxBatch: 1 << 20, maxDecode: 1 << 20, rules: r, home: west})
	if err != nil || len(chunks) != 1 || chunks[0].aside == nil {
		t.Fatalf("%s, %v", paths(chunks), err)
	}
	out, err := chunks[0].batch.Decode(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	want := in
	want.Headers = append(append(want.Headers, west.headers(5, 77)...),
		record.Header{Key: record.HeaderQuarantineReason, Value: []byte("a field of the value is to be masked, and it is not JSON")},
		record.Header{Key: record.HeaderQuarantineContent, Value: []byte("record")})
	if !equalRecord(&out[0], &want) {
		t.Errorf("%+v, want %+v", out[0], want)
	}
}

// TestADamagedBatchIsFetchedAgainBeforeItIsPutAside: what was damaged on its way
// is whole the next time. What is damaged at the source goes aside as bytes, but
// not if its header does not agree with itself.
func TestADamagedBatchIsFetchedAgainBeforeItIsPutAside(t *testing.T) {
	damaged := letters("aaa", record.None)
	damaged[record.HeaderSize+8] ^= 1
	unclear := letters("aaa", record.None)
	unclear[26] ^= 64 // last offset delta
	lim := limits{maxBatch: 1 << 20, maxDecode: 1 << 20, verify: true, suspect: -1, home: west, rules: rulesOf(t, flow.Records{Poison: flow.PoisonQuarantine})}
	chunks, next, err := stage(fetched{position: 10, records: damaged}, lim)
	if !errors.Is(err, errCorrupt) || len(chunks) > 0 || next != 10 {
		t.Fatalf("the first time: %s, %v", paths(chunks), err)
	}
	c := newCopier(Assignment{}, func() {}, &Metrics{})
	c.fault(err)
	lim.suspect = c.damagedAt
	chunks, next, err = stage(fetched{position: 10, records: damaged}, lim)
	if got := paths(chunks); err != nil || next != 13 || got != "aside-1[10,13)-quarantined[10,13)" {
		t.Fatalf("the second time: %s, %v", got, err)
	}
	out, err := chunks[0].batch.Decode(1 << 20)
	if err != nil || !reflect.DeepEqual(record.Batch(out[0].Value), damaged) {
		t.Errorf("not the batch that was there: %v", err)
	}
	chunks, next, err = stage(fetched{position: 10, records: unclear}, lim)
	if err == nil || next != 10 {
		t.Errorf("a batch of unclear size: %s, %v", paths(chunks), err)
	}
	lim.rules = nil
	if chunks, _, err = stage(fetched{position: 10, records: damaged}, lim); !errors.Is(err, errCorrupt) {
		t.Errorf("without quarantine: %s, %v", paths(chunks), err)
	}
}
