package offsets

import (
	"sync"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// follow sets where the source's group stands, does a round, and returns where the
// group stands at the destination then, -1 if nowhere.
func follow(t *testing.T, s *Syncer, source, destination *memoryCluster, at int64) int64 {
	t.Helper()
	source.commits["app"][orders] = Commit{Offset: at}
	if _, err := s.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, ok := destination.commits["app"][orders]; ok {
		return c.Offset
	}
	return -1
}

// A group at the source goes on, goes back, and runs ahead of the copy, while the
// destination loses the end of its log: what is committed there stays below the end
// and only grows but for that.
//
// KAFKA-12468 (downstream lag was negative), KAFKA-13659 (stale positions were synced).
func TestASyncedGroupNeverGoesBackOrBeyondTheEnd(t *testing.T) {
	s, src, dst, _ := newSync(Commit{})
	src.end = 20
	for _, step := range []struct {
		name         string
		end          int64 // of the destination
		source, want int64
	}{
		{"its first position", 111, 4, 104},
		{"it goes back", 111, 2, 104},
		{"it goes on", 111, 6, 106},
		{"it runs ahead of the copy", 111, 12, 106},
		{"the destination has lost its end", 107, 9, 106},
		{"the destination has lost more", 105, 9, 105},
		{"it has it back", 111, 9, 109},
		{"it goes back to the start", 111, 0, 109},
	} {
		dst.end = step.end
		if got := follow(t, s, src, dst, step.source); got != step.want || got > step.end {
			t.Errorf("%s: at %d the group stands at %d of a log that ends at %d, want %d", step.name, step.source, got, step.end, step.want)
		}
	}
}

// KAFKA-10048: a group that has read nothing yet, or of a partition that has nothing,
// was left out, and began at the end after a failover.
func TestAGroupAtZeroAtTheEndOrOnAnEmptyPartitionHasAPosition(t *testing.T) {
	for name, c := range map[string]struct {
		copied []ledger.Entry
		source int64
		end    int64 // of the destination
		want   int64
	}{
		"nothing read":                                {[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 0)}, 0, 11, 0},
		"nothing read, and others before":             {[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 100)}, 0, 111, 100},
		"everything read":                             {[]ledger.Entry{begin(1, 0), hop(1, 0, 10, 100)}, 10, 110, 110},
		"an empty partition":                          {[]ledger.Entry{begin(1, 0)}, 0, 0, 0},
		"a partition that holds nothing by now, read": {[]ledger.Entry{begin(1, 0), hop(1, 0, 10, gapControl)}, 10, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s, src, dst, _ := newSync(Commit{})
			s.cfg.Maps = NewMaps()
			s.cfg.Maps.Attach("dst", caughtUp{})
			feed(s.cfg.Maps, 0, c.copied...)
			dst.end = c.end
			if got := follow(t, s, src, dst, c.source); got != c.want {
				t.Errorf("the group stands at %d, want %d", got, c.want)
			}
		})
	}
}

// KAFKA-12635: where nothing had been written down about a partition, the source's
// offset was passed on as the destination's.
func TestNoPositionIsWrittenWhereNothingIsKnown(t *testing.T) {
	for name, known := range map[string][]ledger.Entry{
		"no copy":                           nil,
		"a copy that has brought nothing":   {begin(1, 0)},
		"a copy of which a page is missing": {begin(1, 0), hop(1, 2, 8, 102)},
		"a copy whose beginning is missing": {hop(1, 0, 10, 100)},
		"a copy of another partition":       {otherPartition(begin(1, 0)), otherPartition(hop(1, 0, 10, 100))},
	} {
		t.Run(name, func(t *testing.T) {
			s, src, dst, _ := newSync(Commit{})
			s.cfg.Maps = NewMaps()
			s.cfg.Maps.Attach("dst", caughtUp{})
			feed(s.cfg.Maps, 0, known...)
			if got := follow(t, s, src, dst, 1); got != -1 {
				t.Errorf("the group stands at %d", got)
			}
		})
	}
}

// otherPartition makes an entry one of partition 1.
func otherPartition(e ledger.Entry) ledger.Entry {
	id := testCopy
	id.Source.Partition, id.Destination.Partition = 1, 1
	switch e := e.(type) {
	case *ledger.Begin:
		e.Copy = id
	case *ledger.Hop:
		e.Copy = id.Key()
	}
	return e
}

// longHistory is a copy of many transactions with a marker behind each, and now and
// then a stretch that compaction or an aborted transaction has left; it yields where
// the record at each source offset is, -1 where there is none.
func longHistory(feed func(ledger.Entry)) (image []int64) {
	feed(begin(1, 0))
	dest := int64(1000)
	for i := range int64(3000) {
		from := int64(len(image))
		h := &ledger.Hop{Copy: testCopy.Key(), Epoch: 1, From: from, Next: from, At: time.UnixMilli(1 + i)}
		run := func(n int64) {
			h.Runs = append(h.Runs, ledger.Run{Source: h.Next, Count: n, Destination: dest, Path: ledger.Raw})
			for k := range n {
				image = append(image, dest+k)
			}
			h.Next, dest = h.Next+n, dest+n
		}
		run(1 + i*7%13)
		if i%3 == 0 {
			n := 1 + i%5
			h.Gaps = append(h.Gaps, ledger.Gap{Source: h.Next, Count: n, Reason: []ledger.Reason{ledger.Control, ledger.Compacted, ledger.Aborted}[i%9/3]})
			for range n {
				image = append(image, -1)
			}
			h.Next += n
			run(2)
		}
		feed(h)
		dest++ // the marker
	}
	return image
}

// wantOf is where a position lies: at the first record that has not been read.
func wantOf(image []int64, x int) int64 {
	for _, at := range image[x:] {
		if at >= 0 {
			return at
		}
	}
	return -1
}

// Of a long history each position is answered, the oldest as well as the newest, with
// nothing read again.
//
// KAFKA-14666, KIP-1292: positions behind the newest few were guessed, and up to all
// records read again.
func TestEveryOldPositionIsExact(t *testing.T) {
	m := NewMap()
	image := longHistory(func(e ledger.Entry) { m.Apply(e) })
	reread := int64(0)
	for x := range image {
		want := wantOf(image, x)
		if want < 0 {
			break
		}
		got := Route{There: m}.Translate(int64(x), AnyBounds)
		if got.Offset != want || !got.Exact {
			t.Fatalf("position %d of %d: got %+v, want offset %d", x, len(image), got, want)
		}
		reread += got.Reread
	}
	if reread != 0 {
		t.Errorf("%d records are read again", reread)
	}
}

// KAFKA-15202: between two points that were written down each offset was taken to be
// a record, so markers and holes of compaction shifted positions.
func TestMarkersAndHolesShiftNoPosition(t *testing.T) {
	m := fold(
		begin(1, 0),
		hop(1, 0, 3, 10, 1, gapControl, 4, 13), // records 0-2, a marker, 4-7
		hop(1, 8, 5, -int64(ledger.Compacted), 2, 18),
		hop(1, 15, 1, gapControl, 6, gapAborted, 1, gapControl, 3, 21),
	)
	for x, want := range []int64{
		10, 11, 12, 13, // the marker: the next record
		13, 14, 15, 16,
		18, 18, 18, 18, 18, // the hole
		18, 19,
		21, 21, 21, 21, 21, 21, 21, 21,
		21, 22, 23,
	} {
		if got := (Route{There: m}).Translate(int64(x), AnyBounds); got.Offset != want || !got.Exact {
			t.Errorf("position %d: got %+v, want offset %d", x, got, want)
		}
	}
}

// A node that starts reads the ledger from its beginning, and one whose reader of the
// ledger is replaced goes on: both answer of all positions what was answered before.
//
// KAFKA-15905, KAFKA-16622: a task that was started again knew of the newest positions
// only, and never translated an older one again.
func TestOldPositionsAreTranslatedAfterARestart(t *testing.T) {
	id := ledger.TopicID{7}
	var book []ledger.Entry
	image := longHistory(func(e ledger.Entry) { book = append(book, e) })
	book = append(book, begin(2, int64(len(image)))) // the owner has started again, too
	answers := func(ms *Maps) (all []Result) {
		for x := 0; x < len(image); x += 11 {
			all = append(all, ms.Route(testCopy.Source, testCopy.Destination).Translate(int64(x), AnyBounds))
		}
		return all
	}
	read := func(ms *Maps, to int) {
		for from := ms.Resume("dst", id, map[int32]int64{0: 0})[0]; from < int64(to); from++ {
			feed(ms, from, book[from])
		}
	}
	running := NewMaps()
	read(running, len(book))
	restarted := NewMaps() // nothing is kept over a restart
	read(restarted, len(book)/2)
	read(restarted, len(book)) // by another reader
	want := answers(running)
	for i, got := range answers(restarted) {
		if x := 11 * i; got != want[i] || got.Offset != wantOf(image, x) && wantOf(image, x) >= 0 {
			t.Fatalf("position %d after a restart: got %+v, before it %+v, want offset %d", x, got, want[i], wantOf(image, x))
		}
	}
}

// Wherever a group stands, no record that it has not read lies below where it is set
// at the destination.
//
// redpanda-data/connect 3182: positions were translated by timestamps, of which many
// records may have the same, and skipped ahead.
func TestAGroupIsNeverSetAheadOfWhatItHasRead(t *testing.T) {
	s, src, dst, _ := newSync(Commit{})
	s.cfg.Maps = NewMaps()
	s.cfg.Maps.Attach("dst", caughtUp{})
	var entries []ledger.Entry
	image := longHistory(func(e ledger.Entry) { entries = append(entries, e) })
	feed(s.cfg.Maps, 0, entries...)
	src.end, dst.end = int64(len(image)), 1<<40
	for x := 0; x < len(image); x += 97 {
		dst.commits["app"] = nil
		at := follow(t, s, src, dst, int64(x))
		if first := wantOf(image, x); at < 0 || first >= 0 && at > first {
			t.Fatalf("at %d the group is set to %d: it has not read the record at %d", x, at, first)
		}
	}
}

// A group has moved: it commits at the destination itself. Whatever the source's group
// does then, whatever the commit there says of itself, and whoever starts anew, it is
// left alone.
//
// redpanda-data/connect 3503: a restart set groups back that had moved.
func TestAMovedGroupIsNotSetBackByARestart(t *testing.T) {
	s, src, dst, moved := newSync(Commit{})
	if got := follow(t, s, src, dst, 4); got != 104 {
		t.Fatalf("before it moves: got %d", got)
	}
	dst.commits["app"][orders] = Commit{Offset: 107, Metadata: "own"}
	if got := follow(t, s, src, dst, 5); got != 107 {
		t.Errorf("after it has moved it was set to %d, it stood at 107", got)
	}
	for _, own := range []Commit{{107, "own"}, {102, ""}, {102, Mark("f")}} { // the last as if the flow had written it
		dst.commits["app"][orders] = own
		again := NewSyncer(s.cfg)
		for _, at := range []int64{0, 6, 9} {
			if got := follow(t, again, src, dst, at); got != own.Offset {
				t.Errorf("after a restart it was set to %d, it stood at %d", got, own.Offset)
			}
		}
	}
	if !moved.IsMoved("f", "app") {
		t.Error("nobody remembers that it has moved")
	}
}

// Rounds, plans and readers of the report meet while the copy goes on: under the race
// detector they find nothing of each other, and the group ends where it stands.
//
// redpanda-data/connect 4312: the synchronisation of groups had a data race.
func TestRoundsOfAFlowMayOverlap(t *testing.T) {
	s, src, dst, _ := newSync(Commit{Offset: 4})
	src.end, dst.end = 1000, 1000
	var all sync.WaitGroup
	for _, do := range []func(i int64) error{
		func(int64) error { _, err := s.Round(t.Context()); return err },
		func(int64) error { _, err := s.Round(t.Context()); return err },
		func(int64) error { _, err := s.Plan(t.Context()); return err },
		func(int64) error { _ = len(s.Report().Rows); return nil },
		func(i int64) error { feed(s.cfg.Maps, 2+i, hop(1, 10+i, 1, 111+2*i)); return nil },
	} {
		all.Go(func() {
			for i := range int64(50) {
				if err := do(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := follow(t, s, src, dst, 59); got != 209 {
		t.Errorf("the group stands at %d, want 209", got)
	}
}
