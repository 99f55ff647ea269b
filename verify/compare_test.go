package verify

import (
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/record/recordtest"
)

// moved is a batch at another offset, as a mirror writes it.
func moved(b record.Batch, base int64) record.Batch {
	c := clone(b)
	c.SetBaseOffset(base)
	c.Restamp(record.Stamp{ProducerID: 4001, ProducerEpoch: 1, BaseSequence: 0, Attributes: c.Attributes().WithTransactional(true)})
	return c
}

// pair is a copy of two batches, at the source 10..12 and 13..14, of which the
// destination has the images at 20..22 and 24..25, with the marker of the mirror's
// transaction at 23, as a raw mirror leaves them.
func pair(t *testing.T, codec record.Codec) (source, dest *log, e *entries) {
	a, b := batch(t, 10, codec, recs("one", "two", "three")...), batch(t, 13, codec, recs("four", "five")...)
	source = &log{start: 10, batches: []record.Batch{a, b}}
	dest = &log{start: 20, batches: []record.Batch{moved(a, 20), marker(t, 23, 4001, true), moved(b, 24), marker(t, 26, 4001, true)}}
	e = &entries{hops: []*ledger.Hop{hop(10, 13, []ledger.Run{rawRun(20, a)}), hop(13, 15, []ledger.Run{rawRun(24, b)})}, writers: []int64{4001}}
	return source, dest, e
}

// identical is the same as a mirror topic, which keeps offsets and markers.
func identical(t *testing.T, codec record.Codec) (source, dest *log, e *entries) {
	a, b := batch(t, 10, codec, recs("one", "two", "three")...), batch(t, 13, codec, recs("four", "five")...)
	source = &log{start: 10, batches: []record.Batch{a, b, marker(t, 15, 7, true)}}
	dest = &log{start: 10, batches: []record.Batch{clone(a), clone(b), marker(t, 15, 7, true)}}
	e = &entries{hops: []*ledger.Hop{hop(10, 16, []ledger.Run{rawRun(10, a, b)}, ledger.Gap{Source: 15, Count: 1, Reason: ledger.Control})}}
	return source, dest, e
}

func TestEqualSidesAreEqual(t *testing.T) {
	for _, codec := range []record.Codec{record.None, record.LZ4, record.Zstd} {
		for name, make := range map[string]func(*testing.T, record.Codec) (*log, *log, *entries){"translated": pair, "preserved": identical} {
			source, dest, e := make(t, codec)
			source.perFetch, dest.perFetch = 1, 1
			c := theCopy
			c.Preserve = name == "preserved"
			got := compare(t, c, source, dest, e)
			if got.Different != 0 || got.Records != 5 || !got.Done || got.Problem != "" || got.Runs != int64(len(e.hops)) || got.RunsConfirmed != got.Runs {
				t.Errorf("%s, %v: got %+v", name, codec, got)
			}
			if want := int64(len(source.batches[0]) + len(source.batches[1])); got.Bytes != want {
				t.Errorf("%s: got %d bytes, want %d", name, got.Bytes, want)
			}
		}
	}
}

// TestOldFormatsAreReadAtTheSource compares messages of the formats v0 and v1, in one
// of which a bit is wrong, with what a copy of them holds.
func TestOldFormatsAreReadAtTheSource(t *testing.T) {
	old := recs("one", "two", "three")
	for i := range old {
		old[i].Offset, old[i].Headers = 10+int64(i), nil
	}
	source := &log{start: 10, batches: []record.Batch{batch(t, 13, record.None, recs("four")...)}}
	source.old = append(recordtest.Message(0, 0, old[0]), recordtest.Wrapper(1, record.Snappy, 0, old[1:]...)...)
	old[0].Timestamp = -1
	all := append(old, recs("four")...)
	dest := &log{start: 20, batches: []record.Batch{batch(t, 20, record.Snappy, all...)}}
	run := ledger.Run{Source: 10, Destination: 20, Count: 4, Path: ledger.Reencoded, Digest: record.CanonicalDigest(all).CRC}
	e := &entries{hops: []*ledger.Hop{hop(10, 14, []ledger.Run{run})}}
	if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.Records != 4 || got.RunsConfirmed != 1 {
		t.Errorf("got %+v", got)
	}
	all[1].Value = []byte("twO")
	dest.batches = []record.Batch{batch(t, 20, record.Snappy, all...)}
	if got := compare(t, theCopy, source, dest, e); got.Different != 1 || got.First[0].Source != 11 {
		t.Errorf("a value that differs: got %+v", got)
	}
}

// holey is a batch of which compaction has left the records at some deltas.
func holey(t *testing.T, base int64, codec record.Codec, kept ...int64) record.Batch {
	t.Helper()
	s, err := batch(t, base, codec, recs("one", "two", "three", "four", "five")...).Section(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Keep(record.NoHorizon, func(r record.Record) bool { return slices.Contains(kept, r.Offset-base) })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHolesOfPreservedBatches: a hop of a copy that preserves offsets has whole batches,
// also those that compaction has left holes in. What is not there on either side is no
// difference; what one side lacks, or has beside the other, is.
func TestHolesOfPreservedBatches(t *testing.T) {
	for _, codec := range []record.Codec{record.None, record.Zstd} {
		for name, c := range map[string]struct {
			dest []int64
			want []Difference
		}{
			"equal":                       {[]int64{1, 3, 4}, nil},
			"a record is missing":         {[]int64{1, 4}, []Difference{{Kind: Missing, Source: 13, Destination: 13, Count: 1}}},
			"a record is there too much":  {[]int64{0, 1, 3, 4}, []Difference{{Kind: Phantom, Source: 10, Destination: 10, Count: 1}}},
			"the last is missing":         {[]int64{1, 3}, []Difference{{Kind: Missing, Source: 14, Destination: 14, Count: 1}}},
			"another one is in its place": {[]int64{1, 2, 4}, []Difference{{Kind: Phantom, Source: 12, Destination: 12, Count: 1}, {Kind: Missing, Source: 13, Destination: 13, Count: 1}}},
		} {
			from := holey(t, 10, codec, 1, 3, 4)
			source := &log{start: 10, batches: []record.Batch{from, marker(t, 15, 7, true)}}
			dest := &log{start: 10, batches: []record.Batch{holey(t, 10, codec, c.dest...), marker(t, 15, 7, true)}}
			e := &entries{hops: []*ledger.Hop{hop(10, 16, []ledger.Run{rawRun(10, from)}, ledger.Gap{Source: 15, Count: 1, Reason: ledger.Control})}}
			preserved := theCopy
			preserved.Preserve = true
			got := compare(t, preserved, source, dest, e)
			var found []Difference
			for _, d := range got.First {
				found = append(found, Difference{Kind: d.Kind, Source: d.Source, Destination: d.Destination, Count: d.Count})
			}
			if !reflect.DeepEqual(found, c.want) || got.Different != int64(len(c.want)) {
				t.Errorf("%s, %v: found %+v of %+v", name, codec, found, got)
			}
			if len(c.want) == 0 && (got.Records != 3 || got.RunsConfirmed != 1 || got.Gaps["compacted"] != 2) {
				t.Errorf("%s, %v: got %+v", name, codec, got)
			}
		}
	}
}

// TestWhatIsFound injects each kind of fault at the destination, in copies with
// offsets translated and preserved, below the checksum and with it.
func TestWhatIsFound(t *testing.T) {
	rebuilt := func(t *testing.T, dest *log, codec record.Codec, change func([]record.Record) []record.Record) {
		b := dest.batches[0]
		records, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		n := len(records)
		records = change(records)
		dest.batches[0] = batch(t, b.BaseOffset(), codec, records...)
		if gone := n - len(records); gone > 0 { // what follows moves up, as it does where a record was not written
			for _, b := range dest.batches[1:] {
				b.SetBaseOffset(b.BaseOffset() - int64(gone))
			}
		}
	}
	flip := func(at int, seal bool) func(*testing.T, *log, record.Codec) {
		return func(_ *testing.T, dest *log, _ record.Codec) {
			b := clone(dest.batches[0])
			i := at
			if i < 0 {
				i += len(b)
			}
			b[i] ^= 4
			if seal {
				b = resealed(b)
			}
			dest.batches[0] = b
		}
	}
	alter := func(change func([]record.Record) []record.Record) func(*testing.T, *log, record.Codec) {
		return func(t *testing.T, dest *log, codec record.Codec) { rebuilt(t, dest, codec, change) }
	}
	cases := []struct {
		name   string
		inject func(*testing.T, *log, record.Codec)
		kind   Kind
		source int64
		count  int64 // of the first difference
		what   string
		plain  bool // only in batches that are not compressed
	}{
		{"a flipped bit", flip(-3, false), Damaged, 10, 3, "checksum does not match", false},
		{"a flipped bit of the header", flip(60, false), Damaged, 10, 3, "checksum does not match", false},
		{"a flipped bit under a checksum that fits", alter(func(r []record.Record) []record.Record {
			r[1].Value = []byte("twn") // 'o' ^ 1
			return r
		}), Different, 11, 1, "value: byte 3 of 3", false},
		{"a flipped bit in place, under a checksum that fits", flip(61+9, true), Different, 10, 1, "key: byte", true},
		{"a flipped bit of the base timestamp, under a checksum that fits", flip(34, true), Different, 10, 1, "timestamp: ", false},
		{"a batch that is not of the codec that it claims, under a checksum that fits", flip(22, true), Damaged, 10, 3, "destination: ", false},
		{"a missing record", alter(func(r []record.Record) []record.Record { return slices.Delete(r, 1, 2) }), Different, 11, 1, "value: 3 bytes at the source, 5 bytes at the destination", false},
		{"a missing batch", func(_ *testing.T, dest *log, _ record.Codec) { dest.batches = dest.batches[1:] }, Missing, 10, 3, "the destination has no record there", false},
		{"a swapped pair", alter(func(r []record.Record) []record.Record { r[0], r[1] = r[1], r[0]; return r }), Different, 10, 1, "key: byte 8 of 10; value: byte 1 of 3; header 1: byte 3 of 5", false},
		{"a wrong timestamp", alter(func(r []record.Record) []record.Record { r[2].Timestamp++; return r }), Different, 12, 1, "timestamp: 1700000000005 at the source, 1700000000006 at the destination", false},
		{"an empty value for null", alter(func(r []record.Record) []record.Record { r[0].Value = nil; return r }), Different, 10, 1, "value: 3 bytes at the source, null at the destination", false},
		{"null for an empty header", alter(func(r []record.Record) []record.Record {
			r[0].Headers = slices.Clone(r[0].Headers)
			r[0].Headers[1].Value = nil
			return r
		}), Different, 10, 1, "header 2: empty at the source, null at the destination", false},
		{"a lost header", alter(func(r []record.Record) []record.Record { r[0].Headers = r[0].Headers[:2]; return r }), Different, 10, 1, "headers: 3 at the source, 2 at the destination", false},
		{"a renamed header", alter(func(r []record.Record) []record.Record {
			r[0].Headers = slices.Clone(r[0].Headers)
			r[0].Headers[0].Key = "trail"
			return r
		}), Different, 10, 1, "key of header 1", false},
		{"a log that ends early", func(_ *testing.T, dest *log, _ record.Codec) { dest.batches = dest.batches[:1] }, Missing, 13, 2, "the destination ends at offset", false},
		{"a log that cannot be read on", flip(16, false), Damaged, 10, 1, "magic", false},
		{"a batch that claims offsets beyond the end", func(_ *testing.T, dest *log, _ record.Codec) {
			b := clone(dest.batches[0])
			binary.BigEndian.PutUint64(b, 1<<40)
			dest.batches[0] = b
		}, Damaged, 10, 1, "a batch claims offsets 1099511627776", false},
	}
	for _, c := range cases {
		for _, codec := range []record.Codec{record.None, record.LZ4} {
			if codec != record.None && c.plain {
				continue
			}
			for name, make := range map[string]func(*testing.T, record.Codec) (*log, *log, *entries){"translated": pair, "preserved": identical} {
				t.Run(c.name+", "+name+", "+codec.String(), func(t *testing.T) {
					source, dest, e := make(t, codec)
					c.inject(t, dest, codec)
					copied := theCopy
					copied.Preserve = name == "preserved"
					got := compare(t, copied, source, dest, e)
					if got.Different == 0 || len(got.First) == 0 {
						t.Fatalf("nothing was found: %+v", got)
					}
					d := got.First[0]
					if d.Kind != c.kind || d.Source != c.source || d.Count != c.count || !strings.Contains(d.What, c.what) {
						t.Errorf("got %+v, want %s of %d at %d: %s", d, c.kind, c.count, c.source, c.what)
					}
					if d.SourceTopic != "orders" || d.DestinationTopic != "us.orders" || d.Partition != 3 {
						t.Errorf("got %+v, which does not say where", d)
					}
					if sum := (&Report{}); sum.summed(got) != Differs {
						t.Errorf("got verdict %s", sum.Verdict)
					}
				})
			}
		}
	}
}

// summed is the verdict of a verification that is done.
func (r *Report) summed(all ...Progress) Verdict {
	r.State = Done
	r.Sum(all, r.Started)
	return r.Verdict
}

func TestTheLedgerSaysWhichSideChanged(t *testing.T) {
	change := func(l *log) {
		b := l.batches[0]
		records, err := b.Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		records[1].Value = []byte("TWO")
		l.batches[0] = batch(t, b.BaseOffset(), record.None, records...)
	}
	reencoded := func(source, _ *log, e *entries) {
		for _, h := range e.hops {
			for i := range h.Runs {
				for _, b := range source.batches {
					if b.BaseOffset() == h.Runs[i].Source {
						records, err := b.Decode(1 << 20)
						if err != nil {
							t.Fatal(err)
						}
						h.Runs[i].Path, h.Runs[i].Digest = ledger.Reencoded, record.CanonicalDigest(records).CRC
					}
				}
			}
		}
	}
	for name, path := range map[string]func(source, dest *log, e *entries){"raw": func(*log, *log, *entries) {}, "encoded again": reencoded} {
		for _, c := range []struct {
			name, want string
			inject     func(source, dest *log)
		}{
			{"the destination", ChangedDestination, func(_, dest *log) { change(dest) }},
			{"the source", ChangedSource, func(source, _ *log) { change(source) }},
			{"both", ChangedBoth, func(source, dest *log) {
				change(source)
				dest.batches[0] = batch(t, 20, record.None, recs("1", "2", "3")...)
			}},
		} {
			t.Run(name+", "+c.name, func(t *testing.T) {
				source, dest, e := pair(t, record.None)
				path(source, dest, e)
				c.inject(source, dest)
				got := compare(t, theCopy, source, dest, e)
				if len(got.First) == 0 || got.First[0].Changed != c.want {
					t.Errorf("got %+v, want %s", got.First, c.want)
				}
			})
		}
	}
	t.Run("neither is what was copied", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		change(source)
		dest.batches[0] = moved(source.batches[0], 20)
		got := compare(t, theCopy, source, dest, e)
		if len(got.First) != 1 || got.First[0].Kind != Ledger || got.First[0].Count != 3 || got.Records != 5 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestOtherBatchesOfTheSameRecords compares what was merged, compressed otherwise or
// encoded again on its way: it is equal, record by record.
func TestOtherBatchesOfTheSameRecords(t *testing.T) {
	source, dest, e := pair(t, record.None)
	all := append(recs("one", "two", "three"), recs("four", "five")...)
	dest.batches = []record.Batch{batch(t, 20, record.Zstd, all...)}
	run := ledger.Run{Source: 10, Destination: 20, Count: 5, Path: ledger.Reencoded, Digest: record.CanonicalDigest(all).CRC}
	e.hops = []*ledger.Hop{hop(10, 15, []ledger.Run{run})}
	got := compare(t, theCopy, source, dest, e)
	if got.Different != 0 || got.Records != 5 || got.RunsConfirmed != 1 {
		t.Errorf("got %+v", got)
	}
	// A broker that recompresses leaves no batch as the ledger's digest is of it.
	e.hops[0].Runs[0].Path, e.hops[0].Runs[0].Digest = ledger.Raw, source.batches[0].SectionDigest().Join(source.batches[1].SectionDigest()).CRC
	if got = compare(t, theCopy, source, dest, e); got.Different != 0 || got.Records != 5 {
		t.Errorf("recompressed: got %+v", got)
	}
}

func TestPhantoms(t *testing.T) {
	at := func(base int64, producer int64) record.Batch {
		b := batch(t, base, record.None, recs("who?")...)
		b.Restamp(record.Stamp{ProducerID: producer})
		return b
	}
	// The marker's place, 23, lies between the runs.
	put := func(dest *log, b record.Batch) { dest.batches[1] = b }
	t.Run("of a replicator that no hop mentions", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		put(dest, at(23, 4001))
		got := compare(t, theCopy, source, dest, e)
		if got.Different != 1 || got.First[0].Kind != Phantom || got.First[0].Destination != 23 || got.Records != 5 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("of another copy", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		put(dest, at(23, 4001))
		e.copied = []int64{23}
		if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.Foreign != 1 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("of others, which are foreign", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		put(dest, at(23, 99))
		if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.Foreign != 1 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("of what the source has lost since, as the ledger says", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		put(dest, at(23, 4001))
		e.lost = []int64{23}
		if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.TakenBack != 1 || got.Foreign != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("in a mirror topic, which has no foreign ones", func(t *testing.T) {
		source, dest, e := identical(t, record.None)
		dest.batches[2] = at(15, 99)
		c := theCopy
		c.Preserve = true
		got := compare(t, c, source, dest, e)
		if got.Different != 1 || got.First[0].Kind != Phantom || got.First[0].Destination != 15 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("in a run, without a source", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		source.aborted = []Aborted{{7, 10}}
		source.batches = []record.Batch{transactional(source.batches[0], 7), marker(t, 13, 7, false)}
		e.hops = e.hops[:1]
		got := compare(t, theCopy, source, dest, e)
		if got.Different != 3 || got.First[0].Kind != Phantom || got.First[0].Source != 10 || got.First[0].Destination != 20 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("behind the end of the source", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		source.batches = source.batches[:1]
		got := compare(t, theCopy, source, dest, e)
		if got.Different != 2 || got.First[0].What != "the source ends at offset 13" || got.First[0].Changed != ChangedSource {
			t.Errorf("got %+v", got)
		}
	})
}

// TestReasonsOfGapsMustHold has the ledger declare offsets as gone that can be read.
func TestReasonsOfGapsMustHold(t *testing.T) {
	for _, c := range []struct {
		reason ledger.Reason
		want   int64
	}{
		{ledger.Compacted, 3},
		{ledger.Aborted, 3},
		{ledger.Control, 3},
		{ledger.Expired, 3},
		{ledger.Filtered, 0},
		{ledger.Quarantined, 0},
		{ledger.Returned, 3},
		{ledger.NotLocal, 3},
		{ledger.Doubled, 3},
		{ledger.NotAsked, 0},
		{ledger.Reason(77), 3},
	} {
		source, dest, e := pair(t, record.None)
		e.hops = []*ledger.Hop{hop(10, 15, e.hops[1].Runs, ledger.Gap{Source: 10, Count: 3, Reason: c.reason})}
		got := compare(t, theCopy, source, dest, e)
		if got.Different != c.want || got.Gaps[c.reason.String()] != 3 || got.Records != 2 {
			t.Errorf("%v: got %+v, want %d differences", c.reason, got, c.want)
		}
		if c.want > 0 && (got.First[0].Source != 10 || got.First[0].Count != 3) {
			t.Errorf("%v: got %+v", c.reason, got.First)
		}
	}
	t.Run("that do hold", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		source.batches[0] = transactional(source.batches[0], 7)
		source.aborted = []Aborted{{7, 10}}
		source.batches = []record.Batch{source.batches[0], marker(t, 13, 7, false), batch(t, 20, record.None, recs("x")...)}
		e.hops = []*ledger.Hop{hop(0, 21, []ledger.Run{rawRun(20, source.batches[2])},
			ledger.Gap{Source: 0, Count: 10, Reason: ledger.Expired}, ledger.Gap{Source: 10, Count: 3, Reason: ledger.Aborted},
			ledger.Gap{Source: 13, Count: 1, Reason: ledger.Control}, ledger.Gap{Source: 14, Count: 6, Reason: ledger.Compacted})}
		dest.batches = []record.Batch{moved(source.batches[2], 20)}
		got := compare(t, theCopy, source, dest, e)
		if got.Different != 0 || got.Records != 1 || got.Gaps["compacted"] != 6 || got.Gaps["expired"] != 10 || got.GapsUnchecked != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("that cannot be checked any more", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		source.start, source.batches = 13, source.batches[1:]
		e.hops = []*ledger.Hop{hop(10, 15, e.hops[1].Runs, ledger.Gap{Source: 10, Count: 3, Reason: ledger.Aborted})}
		got := compare(t, theCopy, source, dest, e)
		var r Report
		if r.summed(got) != EqualWhereComparable || got.GapsUnchecked != 3 {
			t.Errorf("got %s, %+v", r.Verdict, got)
		}
	})
}

// TestWhatIsGoneIsNotComparable counts what one side does not have any more, and
// never as equal.
func TestWhatIsGoneIsNotComparable(t *testing.T) {
	holey := func(l *log, i int) {
		s, err := l.batches[i].Section(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		first := l.batches[i].BaseOffset()
		if l.batches[i], err = s.Keep(record.NoHorizon, func(r record.Record) bool { return r.Offset != first }); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(source, dest *log)
		why    string
		n      int64
	}{
		{"expired at the source", func(s, _ *log) { s.start = 12 }, ExpiredAtSource, 2},
		{"all of it", func(s, _ *log) { s.start, s.batches = 15, nil }, ExpiredAtSource, 5},
		{"expired at the destination", func(_, d *log) { d.start = 25 }, ExpiredAtDestination, 4},
		{"compacted at the source", func(s, _ *log) { s.compacts = true; holey(s, 0) }, CompactedAtSource, 1},
		{"compacted at the destination", func(_, d *log) { d.compacts = true; holey(d, 2) }, CompactedAtDestination, 1},
		{"compacted on both sides", func(s, d *log) {
			s.compacts, d.compacts = true, true
			holey(s, 0)
			holey(d, 0)
		}, CompactedOnBothSides, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, dest, e := pair(t, record.None)
			c.change(source, dest)
			got := compare(t, theCopy, source, dest, e)
			var r Report
			if got.Different != 0 || got.NotComparable[c.why] != c.n || got.Records != 5-c.n || r.summed(got) != EqualWhereComparable {
				t.Errorf("got %s, %+v", r.Verdict, got)
			}
		})
	}
	t.Run("a hole where nothing compacts is a loss", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		holey(source, 0)
		holey(dest, 0)
		got := compare(t, theCopy, source, dest, e)
		if got.Different != 1 || got.First[0].Kind != Lost {
			t.Errorf("got %+v", got)
		}
	})
}

func TestSilenceOfTheLedger(t *testing.T) {
	source, dest, e := pair(t, record.None)
	e.hops = []*ledger.Hop{e.hops[0], hop(14, 15, []ledger.Run{{Source: 14, Destination: 25, Count: 1, Path: ledger.Raw}})}
	got := compare(t, theCopy, source, dest, e)
	// What the destination has of them is nowhere explained either.
	if got.Different != 2 || got.First[0].Kind != Unaccounted || got.First[0].Source != 13 || got.First[1].Kind != Phantom || got.First[1].Destination != 24 || got.Records != 4 {
		t.Errorf("got %+v", got)
	}
	e.doubt = "a page is missing"
	var r Report
	if got = compare(t, theCopy, source, dest, e); got.Doubt != e.doubt || r.summed(got) != Differs || r.Incomplete != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestTimestampsThatTheDestinationSetsItself(t *testing.T) {
	source, dest, e := pair(t, record.None)
	dest.batches[0].SetAppendTime(1_800_000_000_000)
	if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.OwnTimes != 3 {
		t.Errorf("got %+v", got)
	}
	t.Run("but a mirror topic has the source's", func(t *testing.T) {
		source, dest, e := identical(t, record.None)
		dest.batches[0].SetAppendTime(1_800_000_000_000)
		c := theCopy
		c.Preserve = true
		if got := compare(t, c, source, dest, e); got.Different != 3 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("and so has the record path", func(t *testing.T) {
		source, dest, e := pair(t, record.None)
		source.batches[0].SetAppendTime(1_800_000_000_000)
		records, err := source.batches[0].Decode(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		dest.batches[0] = batch(t, 20, record.None, records...)
		e.hops[0].Runs[0].Path, e.hops[0].Runs[0].Digest = ledger.Reencoded, record.CanonicalDigest(records).CRC
		if got := compare(t, theCopy, source, dest, e); got.Different != 0 || got.OwnTimes != 0 || got.RunsConfirmed != 2 {
			t.Errorf("got %+v", got)
		}
	})
}

// TestABatchThatGrowsTooLargeIsNotTakenForEqual bounds memory: what may not be taken
// apart is compared as bytes or not at all.
func TestABatchThatGrowsTooLargeIsNotTakenForEqual(t *testing.T) {
	big := record.Record{Value: make([]byte, 1<<20)}
	b := batch(t, 0, record.Zstd, big, big)
	other := batch(t, 0, record.LZ4, big, big)
	e := &entries{hops: []*ledger.Hop{hop(0, 2, []ledger.Run{rawRun(0, b)})}}
	run := func(dest record.Batch) Progress {
		r := NewRun(Config{
			Source: &log{batches: []record.Batch{b}}, Destination: &log{batches: []record.Batch{dest}}, Entries: e, MaxDecode: 1 << 20,
			Save: saved(nil),
		})
		got, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 0, e)})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	if got := run(clone(b)); got.Records != 2 || got.Different != 0 {
		t.Errorf("as bytes: got %+v", got)
	}
	if got := run(other); got.Records != 0 || len(got.First) != 0 || got.NotComparable[TooLargeToDecode] != 2 || got.Different != 0 {
		t.Errorf("as records: got %+v", got)
	}
}

// TestLargeBatchesAreOpenedOneAtATime compares what needs more memory than each copy
// has: of several copies, one after the other.
func TestLargeBatchesAreOpenedOneAtATime(t *testing.T) {
	big := record.Record{Value: make([]byte, smallDecode)}
	b, other := batch(t, 0, record.Zstd, big), batch(t, 0, record.LZ4, big)
	e := &entries{hops: []*ledger.Hop{hop(0, 1, []ledger.Run{rawRun(0, b)})}}
	source, dest := &log{batches: []record.Batch{b}}, &log{batches: []record.Batch{other}}
	r := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(nil)})
	begin := Begin("run", theCopy, 0, e)
	got, err := r.Do(t.Context(), []Copy{theCopy, theCopy, theCopy}, []Progress{begin, begin, begin})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range got {
		if p.Records != 1 || p.Different != 0 || len(p.NotComparable) != 0 || !p.Done {
			t.Errorf("got %+v", p)
		}
	}
	if source.fetches != 6 || dest.fetches != 6 {
		t.Errorf("%d and %d fetches, want two for each copy: one that finds the batch too large", source.fetches, dest.fetches)
	}
}

// TestAlteredRecords: what a flow has changed on its way is held against what it
// wrote, and must be there on both sides.
func TestAlteredRecords(t *testing.T) {
	altered := func(t *testing.T) (source, dest *log, e *entries) {
		a := batch(t, 10, record.LZ4, recs("one", "two", "three")...)
		written := recs("*", "*", "***")
		source = &log{start: 10, batches: []record.Batch{a}}
		dest = &log{start: 20, batches: []record.Batch{moved(batch(t, 20, record.LZ4, written...), 20), marker(t, 23, 4001, true)}}
		run := ledger.Run{Source: 10, Destination: 20, Count: 3, Path: ledger.Altered, Digest: record.CanonicalDigest(written).CRC}
		return source, dest, &entries{hops: []*ledger.Hop{hop(10, 13, []ledger.Run{run})}, writers: []int64{4001}}
	}
	source, dest, e := altered(t)
	got := compare(t, theCopy, source, dest, e)
	if got.Different != 0 || got.NotComparable[AlteredByTheFlow] != 3 || got.RunsConfirmed != 1 {
		t.Errorf("as it was written: %+v", got)
	}
	dest.batches[0] = moved(batch(t, 20, record.LZ4, recs("*", "x", "***")...), 20)
	if got = compare(t, theCopy, source, dest, e); got.Different != 3 || len(got.First) != 1 || got.First[0].Changed != ChangedDestination {
		t.Errorf("changed at the destination: %+v", got)
	}
	dest.batches[0] = moved(batch(t, 20, record.LZ4, recs("*", "*")...), 20)
	if got = compare(t, theCopy, source, dest, e); got.Different != 1 || got.First[0].Kind != Missing {
		t.Errorf("one is missing: %+v", got)
	}
}
