package commitlog

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/vfs"
)

// event is a batch of n records, or a marker if kind is set, and its outcome.
type event struct {
	kind string // "", "commit", "abort", "coordinator" (a batch of one)
	p    from
	n    int
	want error
	dup  int64 // base offset of the batch that it repeats, -1 for none
}

func TestProducersRules(t *testing.T) {
	ok := func(p from, n int) event { return event{p: p, n: n, dup: -1} }
	bad := func(p from, n int, want error) event { return event{p: p, n: n, want: want, dup: -1} }
	mark := func(kind string, id int64, epoch int16, want error) event {
		return event{kind: kind, p: from{id: id, epoch: epoch}, want: want, dup: -1}
	}
	for name, events := range map[string][]event{
		"sequences follow each other": {
			ok(from{1, 0, 0, false}, 3), ok(from{1, 0, 3, false}, 1),
			bad(from{1, 0, 5, false}, 1, ErrOutOfOrderSequence), bad(from{1, 0, 2, false}, 1, ErrOutOfOrderSequence),
			ok(from{1, 0, 4, false}, 1), ok(from{2, 7, 0, false}, 1),
		},
		"without state any sequence begins":   {ok(from{1, 3, 77, false}, 2), ok(from{1, 3, 79, false}, 1)},
		"sequences wrap to 0":                 {ok(from{1, 0, math.MaxInt32 - 1, false}, 2), ok(from{1, 0, 0, false}, 1)},
		"a batch may straddle the wrap":       {ok(from{1, 0, math.MaxInt32, false}, 3), ok(from{1, 0, 2, false}, 1)},
		"no producer id is checked":           {ok(nobody, 1), ok(nobody, 1)},
		"a new epoch begins at 0":             {ok(from{1, 0, 5, false}, 1), bad(from{1, 1, 6, false}, 1, ErrOutOfOrderSequence), ok(from{1, 1, 0, false}, 1)},
		"an old epoch is fenced":              {ok(from{1, 4, 0, false}, 1), bad(from{1, 3, 1, false}, 1, ErrInvalidProducerEpoch)},
		"a coordinator's sequence is free":    {{kind: "coordinator", p: from{1, 0, -1, true}, dup: -1}, {kind: "coordinator", p: from{1, 0, -1, true}, dup: -1}},
		"a coordinator's epoch is not":        {ok(from{1, 4, 0, true}, 1), {kind: "coordinator", p: from{1, 3, -1, true}, want: ErrInvalidProducerEpoch}},
		"plain data in a transaction":         {ok(from{1, 0, 0, true}, 1), bad(from{1, 0, 1, false}, 1, ErrInvalidTxnState), mark("commit", 1, 0, nil), ok(from{1, 0, 1, false}, 1)},
		"a marker keeps the sequence":         {ok(from{1, 0, 0, true}, 2), mark("abort", 1, 0, nil), ok(from{1, 0, 2, true}, 1)},
		"a marker raises the epoch":           {ok(from{1, 0, 0, true}, 2), mark("commit", 1, 1, nil), bad(from{1, 0, 2, true}, 1, ErrInvalidProducerEpoch), ok(from{1, 1, 0, true}, 1)},
		"a marker of an old epoch is refused": {ok(from{1, 5, 0, true}, 1), mark("abort", 1, 4, ErrInvalidProducerEpoch)},
		"a marker may be repeated":            {ok(from{1, 0, 0, true}, 1), mark("commit", 1, 0, nil), mark("commit", 1, 0, nil), mark("abort", 9, 0, nil)},
		"duplicates are answered": {
			ok(from{1, 0, 0, false}, 2), ok(from{1, 0, 2, false}, 1), ok(from{1, 0, 3, false}, 1),
			ok(from{1, 0, 4, false}, 1), ok(from{1, 0, 5, false}, 1), ok(from{1, 0, 6, false}, 1),
			{p: from{1, 0, 2, false}, n: 1, dup: 2},
			{p: from{1, 0, 6, false}, n: 1, dup: 6},
			bad(from{1, 0, 0, false}, 2, ErrOutOfOrderSequence), // the sixth is forgotten
			bad(from{1, 0, 6, false}, 2, ErrOutOfOrderSequence), // not the same batch
		},
		"a duplicate of another epoch is none": {ok(from{1, 0, 0, false}, 1), ok(from{1, 1, 0, false}, 1), bad(from{1, 0, 0, false}, 1, ErrInvalidProducerEpoch)},
		"contradictions":                       {bad(from{-1, -1, -1, true}, 1, ErrInvalidBatch), bad(from{1, -1, 0, false}, 1, ErrInvalidBatch), bad(from{1, 0, -1, false}, 1, ErrInvalidBatch)},
	} {
		t.Run(name, func(t *testing.T) {
			// Every outcome must be the same on a log that is opened anew
			// before each event, cleanly and after a kill.
			for _, restart := range []string{"never", "close", "kill"} {
				fsys := vfs.NewMem()
				l := open(t, fsys, small())
				for i, e := range events {
					switch restart {
					case "close":
						must(t, l.Close())
						l = open(t, fsys, small())
					case "kill":
						must(t, l.WaitDurable(t.Context(), l.EndOffset()))
						fsys = fsys.Crash(nil)
						l = open(t, fsys, small())
					}
					var got Appended
					var err error
					switch e.kind {
					case "":
						got, err = l.Append(batch(t, e.p, e.n, 1000), 0, FromClient)
					case "coordinator":
						got, err = l.Append(batch(t, e.p, 1, 1000), 0, FromCoordinator)
					default:
						got, err = l.AppendMarker(Marker{e.p.id, e.p.epoch, e.kind == "commit", 0}, 0)
					}
					if !errors.Is(err, e.want) {
						t.Fatalf("restart %s, event %d: %v, want %v", restart, i, err, e.want)
					}
					if dup := err == nil && e.dup >= 0; got.Duplicate != dup || dup && got.BaseOffset != e.dup {
						t.Fatalf("restart %s, event %d: %+v, want duplicate of %d", restart, i, got, e.dup)
					}
				}
			}
		})
	}
}

func TestAnOldCoordinatorIsFenced(t *testing.T) {
	l := open(t, vfs.NewMem(), small())
	add(t, l, from{1, 0, 0, true}, 1)
	_, err := l.AppendMarker(Marker{1, 0, true, 5}, 0)
	must(t, err)
	if _, err := l.AppendMarker(Marker{1, 0, true, 4}, 0); !errors.Is(err, ErrCoordinatorFenced) {
		t.Fatalf("%v, want ErrCoordinatorFenced", err)
	}
	got := l.Producers()
	if len(got) != 1 || got[0].CoordinatorEpoch != 5 || got[0].TxnStart != -1 || got[0].LastSequence != 0 {
		t.Fatalf("producers %+v", got)
	}
}

func TestALateBatchCannotOpenATransaction(t *testing.T) {
	cfg := small()
	cfg.VerifyTransactions = true
	l := open(t, vfs.NewMem(), cfg)
	p := from{1, 0, 0, true}
	if _, err := l.Append(batch(t, p, 1, 0), 0, FromClient); !errors.Is(err, ErrInvalidTxnState) {
		t.Fatalf("unverified: %v, want ErrInvalidTxnState", err)
	}
	guard, inTxn := l.BeginVerification(1, 0)
	if inTxn {
		t.Fatal("a transaction is open before the first batch")
	}
	// The coordinator says yes, but then its marker overtakes the batch.
	_, err := l.AppendMarker(Marker{1, 0, false, 0}, 0)
	must(t, err)
	if _, err := l.AppendVerified(batch(t, p, 1, 0), 0, guard); !errors.Is(err, ErrInvalidTxnState) {
		t.Fatalf("overtaken: %v, want ErrInvalidTxnState", err)
	}
	guard, _ = l.BeginVerification(1, 0)
	other := guard
	other.producerID = 2
	if _, err := l.AppendVerified(batch(t, p, 1, 0), 0, other); !errors.Is(err, ErrInvalidTxnState) {
		t.Fatalf("another's guard: %v, want ErrInvalidTxnState", err)
	}
	_, err = l.AppendVerified(batch(t, p, 1, 0), 0, guard)
	must(t, err)
	// Once open, it goes on without.
	if _, inTxn := l.BeginVerification(1, 0); !inTxn {
		t.Fatal("no transaction is open after the first batch")
	}
	_, err = l.Append(batch(t, from{1, 0, 1, true}, 1, 0), 0, FromClient)
	must(t, err)
}

// TestTheFirstSequenceOfAnUnknownProducer: a partition that knows nothing of a
// producer takes any sequence, but none that leaves a lower one behind.
func TestTheFirstSequenceOfAnUnknownProducer(t *testing.T) {
	for name, c := range map[string]struct {
		known     int32 // sequence of a batch that is there already, -1 for none
		postponed []from
		zero      bool
		begins    from
		want      error
	}{
		"any":                            {known: -1, begins: from{1, 5, 77, true}},
		"from zero, not zero":            {known: -1, zero: true, begins: from{1, 5, 7, true}, want: ErrOutOfOrderSequence},
		"from zero":                      {known: -1, zero: true, begins: from{1, 5, 0, true}},
		"from zero, known":               {known: 6, zero: true, begins: from{1, 5, 7, true}},
		"above a postponed":              {known: -1, postponed: []from{{1, 5, 3, true}, {1, 5, 4, true}}, begins: from{1, 5, 4, true}, want: ErrOutOfOrderSequence},
		"the postponed":                  {known: -1, postponed: []from{{1, 5, 3, true}, {1, 5, 4, true}}, begins: from{1, 5, 3, true}},
		"below the postponed":            {known: -1, postponed: []from{{1, 5, 3, true}}, begins: from{1, 5, 2, true}},
		"a lower one was postponed":      {known: -1, postponed: []from{{1, 5, 3, true}, {1, 5, 1, true}}, begins: from{1, 5, 3, true}, want: ErrOutOfOrderSequence},
		"an older epoch was postponed":   {known: -1, postponed: []from{{1, 4, 0, true}}, begins: from{1, 5, 4, true}},
		"a newer epoch was postponed":    {known: -1, postponed: []from{{1, 4, 0, true}, {1, 5, 2, true}, {1, 4, 0, true}}, begins: from{1, 5, 3, true}, want: ErrOutOfOrderSequence},
		"another producer was postponed": {known: -1, postponed: []from{{2, 5, 0, true}}, begins: from{1, 5, 4, true}},
		"postponed, known":               {known: 6, postponed: []from{{1, 5, 3, true}}, begins: from{1, 5, 7, true}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := small()
			cfg.VerifyTransactions = true
			l := open(t, vfs.NewMem(), cfg)
			begin := func(p from, zero bool) error {
				guard, _ := l.BeginVerification(p.id, p.epoch)
				if zero {
					guard = guard.FromZero()
				}
				_, err := l.AppendVerified(batch(t, p, 1, 0), 0, guard)
				return err
			}
			if c.known >= 0 {
				must(t, begin(from{1, 5, c.known, true}, false))
			}
			for _, p := range c.postponed {
				l.Postpone(batch(t, p, 1, 0))
			}
			if err := begin(c.begins, c.zero); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestPostponedProducersAreBoundedAndForgotten(t *testing.T) {
	s := newProducers(3)
	for id := range int64(5) {
		s.postpone(batch(t, from{id, 0, 4, true}, 1, 0), 100+id)
	}
	if len(s.postponed) != 3 {
		t.Errorf("%d are postponed, want 3", len(s.postponed))
	}
	s.add(batch(t, from{1, 0, 4, true}, 1, 0), 200)
	s.expire(102)
	if _, ok := s.postponed[2]; !ok || len(s.postponed) != 1 {
		t.Errorf("%v are postponed, want 2: 0 has expired and 1 has begun", s.postponed)
	}
}

func TestProducersAreForgottenWhenIdle(t *testing.T) {
	s := newProducers(10)
	for id := range int64(10) {
		s.add(batch(t, from{id, 0, 0, id == 0}, 1, 0), 100+id)
	}
	s.add(batch(t, from{10, 0, 0, false}, 1, 0), 200) // evicts the two idlest
	var ids []int64
	for _, p := range s.states() {
		ids = append(ids, p.ProducerID)
	}
	if want := []int64{0, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(ids, want) {
		t.Fatalf("after an eviction %v, want %v: 0 has a transaction", ids, want)
	}
	s.expire(106)
	if got := len(s.byID); got != 6 || s.byID[0] == nil {
		t.Fatalf("after expiry %d producers, want 0 and 6 to 10", got)
	}
}

// TestEvictionIsWorthItsCost has more transactions open than producers may be
// remembered: looking through all of them for the one idle producer to forget, with
// each that comes, would stop the partition.
func TestEvictionIsWorthItsCost(t *testing.T) {
	s := newProducers(100)
	for id := range int64(150) {
		s.add(batch(t, from{id, 0, 0, true}, 1, 0), 100)
	}
	highest, before := 0, len(s.byID)
	for id := int64(200); id < 300; id++ {
		s.add(batch(t, from{id, 0, 0, false}, 1, 0), id)
		if now := len(s.byID); now <= before && before-now+1 < 11 {
			t.Fatalf("producer %d made %d go, want 11 at once", id, before-now+1)
		}
		before = len(s.byID)
		highest = max(highest, before)
	}
	if highest != 161 || s.open.Len() != 150 {
		t.Errorf("%d producers at most, %d with a transaction, want 161 and 150", highest, s.open.Len())
	}
}

func TestSnapshotKeepsEveryField(t *testing.T) {
	s := newProducers(10)
	for seq := range int32(7) {
		b := batch(t, from{3, 2, seq, true}, 1, 0)
		b.SetBaseOffset(int64(seq) + 40)
		s.add(b, 1000)
	}
	s.mark(Marker{9, 1, false, 4}, 50, 2000)
	got, offset, err := decodeProducers(s.encode(51), 10)
	must(t, err)
	if offset != 51 || !slices.Equal(got.states(), s.states()) || !slices.Equal(got.byID[3].batches, s.byID[3].batches) {
		t.Fatalf("at %d: %+v, want %+v", offset, got.states(), s.states())
	}
	if n := len(got.byID[3].batches); n != batchesKept {
		t.Fatalf("%d batches, want %d", n, batchesKept)
	}
}

func TestReplayKnowsWhatASnapshotKnew(t *testing.T) {
	replayed, newer := newProducers(10), newProducers(10)
	for id := range int64(4) {
		b := batch(t, from{id, 0, 0, false}, 1, 0)
		b.SetBaseOffset(id * 10)
		replayed.add(b, 5000)
		if id != 1 && id != 3 { // 1 had expired, 3 came later
			newer.add(b, 100+id)
		}
	}
	replayed.overlay(newer, 25)
	var got [][2]int64
	for _, p := range replayed.states() {
		got = append(got, [2]int64{p.ProducerID, p.LastTimestamp})
	}
	if want := [][2]int64{{0, 100}, {2, 102}, {3, 5000}}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}
