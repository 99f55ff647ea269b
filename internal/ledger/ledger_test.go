package ledger

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"
	"time"
)

var (
	at     = time.UnixMilli(1_700_000_000_123).UTC()
	copyID = CopyID{
		Source:      End{Cluster: "src", TopicID: TopicID{1}, Partition: 3},
		Destination: End{Cluster: "dst", TopicID: TopicID{2}, Partition: 3},
	}
	place  = Place{TopicID: TopicID{9}, Topic: "orders", Partition: 2, First: 10, Last: 19}
	client = Client{Principal: "User:app", ClientID: "app-1", Software: "librdkafka 2.5", Address: "192.0.2.7"}
)

// entries is one of each kind, every field set.
func entries() []Entry {
	return []Entry{
		&Begin{
			Copy: copyID, Epoch: 7, Resume: 42, At: at, SourceCluster: "east", DestinationCluster: "west",
			SourceTopic: "orders", DestinationTopic: "east.orders", Flow: "f", Fleet: "prod", Node: "n1", Lane: "waybill.prod.n1",
		},
		&Hop{
			Copy: copyID.Key(), Epoch: 7, From: 42, Next: 160,
			Runs: []Run{
				{Source: 42, Count: 8, Destination: 1000, Path: Raw, Digest: 0xdeadbeef},
				{Source: 50, Count: 50, Destination: 1010, Path: Reencoded, Digest: 1, Route: 2},
				{Source: 103, Count: 57, Destination: 1060, Path: Raw},
			},
			Gaps:              []Gap{{Source: 100, Count: 1, Reason: Control}, {Source: 101, Count: 2, Reason: Filtered}},
			SourceLeaderEpoch: 4, DestinationLeaderEpoch: -1, At: at, Bytes: 12345,
			Routes: []Route{{{"north", TopicID{5}}}, {{"south", TopicID{6}}, {"north", TopicID{5}}}},
		},
		&Hop{Copy: copyID.Key(), Epoch: 7, From: 5, Next: 6, Runs: []Run{{Source: 5, Count: 1, Path: Raw}}, At: at, Untraced: true},
		&Retraction{Copy: copyID.Key(), Epoch: 8, Source: 100, Destination: 1060, At: at},
		&Retraction{Copy: copyID.Key(), Epoch: 8, Source: 100, Destination: 1060, At: at, Lost: LostAtSource},
		&Event{
			Source: Life{"src", TopicID{1}}, Destination: Life{"dst", TopicID{2}}, What: ConfigSet, At: at, Text: "retention.ms=5",
			SourceTopic: "orders", DestinationTopic: "us.orders", Flow: "us-eu", Fleet: "prod",
		},
		&Writer{Cluster: "dst", ProducerID: 4000, ProducerEpoch: 32766, Lane: "lane", Fleet: "prod", Node: "n1", At: at},
		&Production{Place: place, Client: client, Records: 10, ProducerID: -1, FirstAt: at, At: at.Add(time.Second)},
		&Production{Place: Place{Topic: "orders", First: 5, Last: 20, Parts: []Stretch{{5, 7}, {9, 9}, {12, 20}}}, Client: client, Records: 13, ProducerID: 7, FirstAt: at, At: at},
		&Access{Place: place, Client: client, Kind: Committed, Group: "billing", FirstAt: at, At: at.Add(time.Minute)},
		&Progress{Place: place, Kind: Advanced, Group: "billing", Next: 20, FirstAt: at, At: at.Add(time.Minute)},
		&Progress{Place: Place{Topic: "orders", First: 5, Last: 20, Parts: []Stretch{{5, 7}, {12, 20}}}, Kind: Reset, Group: "billing", Next: 5, FirstAt: at, At: at},
		&Rules{Copy: copyID.Key(), Epoch: 7, From: 42, Text: `{"filter":"true"}`, At: at},
		&Quarantine{
			Copy: copyID.Key(), Epoch: 7, From: 100, Next: 103, TopicID: TopicID{9}, Topic: "__waybill.quarantine.f", Partition: 2,
			Offset: 5, Records: 2, Why: "it has no key", At: at,
		},
	}
}

// foldEntries is one of each kind that only a fold has, every field set.
func foldEntries() []Entry {
	return []Entry{
		&Hop{
			Copy: copyID.Key(), Epoch: 7, From: 42, Next: 160,
			Runs:              []Run{{Source: 42, Count: 58, Destination: 1000}, {Source: 103, Count: 57, Destination: 1060, Path: Altered, Route: 1}},
			Gaps:              []Gap{{Source: 100, Count: 3, Reason: Filtered}},
			SourceLeaderEpoch: 4, DestinationLeaderEpoch: 9, At: at, Bytes: 12345, Routes: []Route{{{"north", TopicID{5}}}},
			Fold: &Fold{Since: at.Add(-time.Hour), RanAt: at.Add(-time.Second), Unmarked: true, NotLocal: true, Void: true, Restated: true},
		},
		&Tails{Of: []WriterTail{{WriterID{1}, Tail{Next: 5, Hash: [32]byte{6}}}, {WriterID{2}, Tail{Next: 700, Hash: [32]byte{7}}}}},
		&Cut{Next: 1 << 40, Sum: [32]byte{1, 2}, Pages: 1 << 33, Rule: 1, Fleet: "prod", Node: "n1", At: at},
	}
}

func TestFoldRoundTrip(t *testing.T) {
	want := append(entries(), foldEntries()...)
	got := decode(t, NewFoldChain(WriterID{1}).Encode(want))
	if !got.Fold || !reflect.DeepEqual(got.Entries, want) {
		t.Errorf("got %+v", got)
	}
	for _, e := range foldEntries() {
		if got, err := ReadEntry(AppendEntry(nil, e)); err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v %v, want %+v", got, err, e)
		}
	}
	if p := decode(t, NewChain(WriterID{1}).Encode(entries())); p.Fold {
		t.Error("a page of facts is taken for one of a fold")
	}
}

func decode(t *testing.T, b []byte) *Page {
	t.Helper()
	p, err := Decode(b)
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	return p
}

func TestPageRoundTrip(t *testing.T) {
	for _, e := range entries() {
		got := decode(t, NewChain(WriterID{1}).Encode([]Entry{e}))
		if len(got.Entries) != 1 || !reflect.DeepEqual(got.Entries[0], e) {
			t.Errorf("got %+v, want %+v", got.Entries[0], e)
		}
		zero := reflect.New(reflect.TypeOf(e).Elem()).Interface().(Entry)
		got = decode(t, NewChain(WriterID{1}).Encode([]Entry{zero}))
		if !reflect.DeepEqual(got.Entries[0], zero) {
			t.Errorf("zero: got %+v, want %+v", got.Entries[0], zero)
		}
	}
	all := decode(t, NewChain(WriterID{1}).Encode(entries()))
	if !reflect.DeepEqual(all.Entries, entries()) || all.Writer != (WriterID{1}) || all.Sequence != 0 {
		t.Errorf("got %+v", all)
	}
	if got := decode(t, NewChain(WriterID{1}).Encode(nil)); len(got.Entries) != 0 {
		t.Errorf("empty page: got %d entries", len(got.Entries))
	}
}

// seal makes a page of raw entry bytes, with a right checksum.
func seal(count uint64, body []byte) []byte {
	b := append([]byte{}, magic...)
	b = append(b, Version)
	b = append(b, make([]byte, 16)...)
	b = binary.AppendUvarint(b, 0)
	b = append(b, make([]byte, 32)...)
	b = append(binary.AppendUvarint(b, count), body...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func sealEntry(k kind, body []byte) []byte {
	return seal(1, append(binary.AppendUvarint([]byte{byte(k)}, uint64(len(body))), body...))
}

func TestEntryByItself(t *testing.T) {
	for _, e := range entries() {
		got, err := ReadEntry(AppendEntry(nil, e))
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("got %+v %v, want %+v", got, err, e)
		}
	}
	for _, b := range [][]byte{nil, {0}, {99, 1, 2}, {byte(kindHop), 1}} {
		if e, err := ReadEntry(b); err == nil {
			t.Errorf("%v: got %+v", b, e)
		}
	}
}

func TestDecodeOfBadBytes(t *testing.T) {
	good := NewChain(WriterID{1}).Encode(entries())
	flipped := append([]byte{}, good...)
	flipped[len(flipped)/2] ^= 1
	newer := append([]byte{}, good...)
	newer[2] = FoldVersion + 1
	hop := func(count, dest int64, tail ...byte) []byte {
		b := (&Hop{From: 5, Next: 5, Untraced: true}).append(nil)
		b = append(b[:len(b)-1], 1, 0)
		b = binary.AppendVarint(binary.AppendUvarint(b, uint64(count)), dest)
		return append(b, tail...)
	}
	writer := (&Writer{}).append(nil)
	negative := (&Retraction{Source: -1}).append(nil)
	wide := append(binary.AppendVarint(append([]byte{}, writer[:2]...), 1<<15), writer[3:]...)
	backwards := (&Production{Place: Place{First: 9, Last: 8}}).append(nil)
	cases := []struct {
		name string
		page []byte
		want string
	}{
		{"empty", nil, "corrupt ledger page: not a page"},
		{"foreign", []byte("hello, this is not for the ledger at all"), "corrupt ledger page: not a page"},
		{"short", good[:20], "corrupt ledger page: 20 bytes, a page has 57 or more"},
		{"cut", good[:len(good)-1], "corrupt ledger page: checksum does not match"},
		{"flipped", flipped, "corrupt ledger page: checksum does not match"},
		{"newer", newer, "ledger page of a newer version: 3, this program knows 2"},
		{"a fold outside a fold", NewChain(WriterID{1}).Encode(foldEntries()[:1]), "corrupt ledger page: entry of kind 10 outside a fold"},
		{"a cut outside a fold", NewChain(WriterID{1}).Encode(foldEntries()[2:]), "corrupt ledger page: entry of kind 12 outside a fold"},
		{"too few entries", seal(1, nil), "corrupt ledger page: 1 elements in 0 bytes"},
		{"bytes behind", seal(0, []byte{1}), "corrupt ledger page: 1 bytes after the last entry"},
		{"entry past the page", seal(1, []byte{2, 9, 0}), "corrupt ledger page: 9 elements in 1 bytes"},
		{"empty run", sealEntry(kindHop, hop(0, 0, 1, 0, 0, 0, 0)), "corrupt ledger page: entry of kind 2: run or gap of 0 offsets"},
		{"huge run", sealEntry(kindHop, hop(-1, 0, 1, 0, 0, 0, 0)), "corrupt ledger page: entry of kind 2: run or gap of -1 offsets"},
		{"negative destination", sealEntry(kindHop, hop(1, -4, 1, 0, 0, 0, 0)), "corrupt ledger page: entry of kind 2: destination offset -4 after 0"},
		{"too many routes", sealEntry(kindHop, hop(1, 4, 1, 0, 0, 0, 0, 9, 0)), "corrupt ledger page: entry of kind 2: 9 elements in 1 bytes"},
		{"no such route", sealEntry(kindHop, hop(1, 4, 1, 0, 0, 0, 0, 1, 0, 1, 2)), "corrupt ledger page: entry of kind 2: route 2 for 1 of 1 runs"},
		{"a route for too many runs", sealEntry(kindHop, hop(1, 4, 1, 0, 0, 0, 0, 1, 0, 2, 1)), "corrupt ledger page: entry of kind 2: route 1 for 2 of 1 runs"},
		{"runs without a route", sealEntry(kindHop, hop(1, 4, 1, 0, 0, 0, 0, 1, 0)), "corrupt ledger page: entry of kind 2: number is not readable"},
		{"cut hop", sealEntry(kindHop, hop(1, 4, 1)), "corrupt ledger page: entry of kind 2: ends 4 bytes early"},
		{"wide producer epoch", sealEntry(kindWriter, wide), "corrupt ledger page: entry of kind 4: 32768 does not fit 16 bits"},
		{"negative offset", sealEntry(kindRetraction, negative), "corrupt ledger page: entry of kind 3: -1 is no offset"},
		{"place backwards", sealEntry(kindProduction, backwards), "corrupt ledger page: entry of kind 5: offsets from 9, -1 more"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode(c.page)
			if err == nil || err.Error() != c.want {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			var corrupt *CorruptError
			if errors.As(err, &corrupt) == errors.Is(err, ErrVersion) {
				t.Errorf("%v is neither or both of corrupt and newer", err)
			}
			if corrupt != nil && corrupt.Foreign != (c.want == "corrupt ledger page: not a page") {
				t.Errorf("Foreign is %v", corrupt.Foreign)
			}
		})
	}
}

func TestUnknownKindsAndFieldsAreSkipped(t *testing.T) {
	p := decode(t, sealEntry(99, []byte("from the future")))
	if p.Unknown != 1 || len(p.Entries) != 0 {
		t.Errorf("got %d unknown and %d known", p.Unknown, len(p.Entries))
	}
	r := &Retraction{Source: 3, Destination: 4}
	p = decode(t, sealEntry(kindRetraction, append(r.append(nil), "more"...)))
	if !reflect.DeepEqual(p.Entries, []Entry{r}) {
		t.Errorf("got %+v, want %+v", p.Entries, r)
	}
}

func TestChain(t *testing.T) {
	chain := NewChain(WriterID{1})
	var pages []*Page
	for range 4 {
		pages = append(pages, decode(t, chain.Encode(entries()[:1])))
	}
	forged := decode(t, (&Chain{next: Link{Writer: WriterID{1}, Sequence: 1, Previous: pages[0].Hash}}).Encode(nil))
	cases := []struct {
		name  string
		pages []*Page
		want  []string // per page, empty if it continues the chain
	}{
		{"whole", pages, []string{"", "", "", ""}},
		{"one removed", []*Page{pages[0], pages[2], pages[3]}, []string{"", "1 pages before it are missing", ""}},
		{"start removed", pages[2:], []string{"2 pages before it are missing", ""}},
		{"one altered", []*Page{pages[0], forged, pages[2], pages[3]}, []string{"", "", "the page before it is not the one that its writer wrote", ""}},
		{"one repeated", []*Page{pages[0], pages[0], pages[1]}, []string{"", "the page is there twice", ""}},
		{"two swapped", []*Page{pages[1], pages[0], pages[2]}, []string{"1 pages before it are missing", "an older page follows a newer one", ""}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			chains := Chains{}
			for i, p := range c.pages {
				got := ""
				var broken *ChainError
				if err := chains.Verify(p); errors.As(err, &broken) {
					got = broken.Reason
				}
				if got != c.want[i] {
					t.Errorf("page %d: got %q, want %q", i, got, c.want[i])
				}
			}
		})
	}
	t.Run("from the middle", func(t *testing.T) {
		chains := Chains{}
		if err := chains.Adopt(pages[1]); err != nil {
			t.Errorf("first: %v", err)
		}
		if err := chains.Adopt(pages[3]); err == nil {
			t.Error("a missing page was not found")
		}
	})
}

func TestHopCheck(t *testing.T) {
	good := entries()[1].(*Hop)
	if err := good.Check(); err != nil {
		t.Errorf("good hop: %v", err)
	}
	if got := good.Records(); got != 115 {
		t.Errorf("got %d records, want 115", got)
	}
	bad := map[string]*Hop{
		"before zero":    {From: -1, Next: -1},
		"hole":           {From: 0, Next: 3, Runs: []Run{{Source: 0, Count: 1}, {Source: 2, Count: 1, Destination: 1}}},
		"overlap":        {From: 0, Next: 3, Runs: []Run{{Source: 0, Count: 2}}, Gaps: []Gap{{Source: 1, Count: 2, Reason: Control}}},
		"short":          {From: 0, Next: 3, Runs: []Run{{Source: 0, Count: 2}}},
		"empty run":      {From: 0, Next: 0, Runs: []Run{{Source: 0}}},
		"goes backwards": {From: 0, Next: 2, Runs: []Run{{Source: 0, Count: 1, Destination: 5}, {Source: 1, Count: 1, Destination: 5}}},
		"no reason":      {From: 0, Next: 1, Gaps: []Gap{{Count: 1}}},
		"no such route":  {From: 0, Next: 1, Runs: []Run{{Count: 1, Route: 2}}, Routes: []Route{{{"c", TopicID{1}}}}},
	}
	for name, h := range bad {
		if err := h.Check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTopicID(t *testing.T) {
	id := TopicID{1, 2, 250, 251, 252, 253, 254, 255}
	got, err := ParseTopicID(id.String())
	if err != nil || got != id {
		t.Errorf("got %v %v, want %v", got, err, id)
	}
	for _, s := range []string{"", "AAAA", "not base64!", id.String() + "AA"} {
		if _, err := ParseTopicID(s); err == nil {
			t.Errorf("%q was taken for a topic id", s)
		}
	}
}

func TestCopyKeyAndPartition(t *testing.T) {
	other := copyID
	other.Source.Partition = 4
	if copyID.Key() == other.Key() {
		t.Error("two partitions share a key")
	}
	reverse := CopyID{Source: copyID.Destination, Destination: copyID.Source}
	if copyID.Key() == reverse.Key() {
		t.Error("both directions share a key")
	}
	if got, want := PartitionOf(other, 4), PartitionOf(copyID, 4); got != want {
		t.Errorf("partitions of one pair of topics: got ledger partitions %d and %d", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(NewChain(WriterID{1}).Encode(entries()))
	f.Add(NewFoldChain(WriterID{1}).Encode(append(entries(), foldEntries()...)))
	f.Add(sealEntry(99, []byte("x")))
	f.Add([]byte("WL"))
	f.Fuzz(func(t *testing.T, b []byte) {
		check(t, b)
		// The checksum hides what is behind it from a fuzzer: repair it.
		if len(b) > 4 {
			check(t, binary.BigEndian.AppendUint32(b[:len(b)-4:len(b)-4], crc32.Checksum(b[:len(b)-4], castagnoli)))
		}
	})
}

// check holds what must be true of every page that decodes: its hops are sound
// and it survives another round trip.
func check(t *testing.T, b []byte) {
	p, err := Decode(b)
	if err != nil {
		return
	}
	for _, e := range p.Entries {
		if h, ok := e.(*Hop); ok {
			if err := h.Check(); err != nil {
				t.Fatalf("decoded a bad hop: %v", err)
			}
		}
	}
	again, err := Decode((&Chain{next: p.Link, fold: p.Fold}).Encode(p.Entries))
	if err != nil {
		t.Fatalf("decode again: %v", err)
	}
	if !reflect.DeepEqual(again.Entries, p.Entries) || again.Link != p.Link {
		t.Fatalf("got %+v, want %+v", again, p)
	}
}

func BenchmarkHop(b *testing.B) {
	hop := &Hop{Copy: copyID.Key(), Epoch: 7, From: 1 << 30, Next: 1<<30 + 500, Runs: []Run{{Source: 1 << 30, Count: 500, Destination: 1 << 29, Path: Raw}}, At: at, Bytes: 1 << 16}
	chain := NewChain(WriterID{1})
	page := chain.Encode([]Entry{hop})
	b.ReportMetric(float64(len(hop.append(nil))), "B/hop")
	for b.Loop() {
		if _, err := Decode(page); err != nil {
			b.Fatal(err)
		}
	}
}
