package verify

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// saved keeps progress in a map by topic, which may be nil.
func saved(into map[string]Progress) func(context.Context, []Progress) error {
	var mu sync.Mutex
	return func(_ context.Context, changed []Progress) error {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range changed {
			if into != nil {
				into[p.SourceTopic] = p
			}
		}
		return nil
	}
}

// long is a copy of n batches of two records, one hop each.
func long(t testing.TB, n int) (source, dest *log, e *entries) {
	source, dest, e = &log{perFetch: 1}, &log{perFetch: 1}, &entries{}
	for i := range int64(n) {
		b := batch(t, 2*i, record.None, recs(fmt.Sprint("a", i), fmt.Sprint("b", i))...)
		source.batches = append(source.batches, b)
		dest.batches = append(dest.batches, moved(b, 2*i))
		e.hops = append(e.hops, hop(2*i, 2*i+2, []ledger.Run{rawRun(2*i, b)}))
	}
	return source, dest, e
}

// TestAStoppedRunGoesOn stops a run again and again, each time after some fetches,
// and goes on from what was saved: nothing is compared twice or left out, and what
// was found stays found.
func TestAStoppedRunGoesOn(t *testing.T) {
	const n = 40
	source, dest, e := long(t, n)
	bad := batch(t, 10, record.None, recs("a5", "other")...)
	dest.batches[5] = bad
	store := map[string]Progress{"orders": Begin("run", theCopy, 0, e)}
	errCut := errors.New("cut")
	rounds := 0
	for ; !store["orders"].Done; rounds++ {
		if rounds > n {
			t.Fatal("it does not get on")
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		fetches := 0
		source.fail = func(int64) error {
			if fetches++; fetches > 4 {
				cancel(errCut)
				return errCut
			}
			return nil
		}
		r := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(store)})
		_, err := r.Do(ctx, []Copy{theCopy}, []Progress{store["orders"]})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cancel(nil)
	}
	got := store["orders"]
	if rounds < 5 || got.Records != 2*n || got.Different != 1 || got.First[0].Source != 11 || got.Runs != n {
		t.Errorf("after %d rounds: got %+v", rounds, got)
	}
}

func TestOnlyWhatIsNewIsReadAgain(t *testing.T) {
	source, dest, e := long(t, 10)
	p := Begin("run", theCopy, 12, e)
	r := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(nil)})
	got, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{p})
	if err != nil || got[0].From != 12 || got[0].Records != 8 || source.fetches != 4 {
		t.Errorf("got %+v, %v, %d fetches", got[0], err, source.fetches)
	}
	// From the middle of a hop: what lies before is not compared.
	got, err = NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(nil)}).Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 13, e)})
	if err != nil || got[0].Records != 7 || got[0].Different != 0 {
		t.Errorf("from the middle: got %+v, %v", got[0], err)
	}
	if p := Begin("run", theCopy, 99, e); !p.Done || p.From != 20 {
		t.Errorf("from behind the end: got %+v", p)
	}
	if p := Begin("run", theCopy, 0, &entries{}); !p.Done || p.Until != 0 {
		t.Errorf("without a copy: got %+v", p)
	}
}

// TestNothingHidesBetweenTwoComparisons puts a phantom where one comparison has ended
// and the next goes on: whichever way the log is cut, together they find what one does.
func TestNothingHidesBetweenTwoComparisons(t *testing.T) {
	source, dest, e := pair(t, record.None)
	phantom := batch(t, 23, record.None, recs("who?")...)
	phantom.Restamp(record.Stamp{ProducerID: 4001})
	dest.batches[1] = phantom // between the first run and the second
	run := func(p Progress) Progress {
		t.Helper()
		got, err := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(nil)}).Do(t.Context(), []Copy{theCopy}, []Progress{p})
		if err != nil {
			t.Fatal(err)
		}
		return got[0]
	}
	all := e.hops
	e.hops = all[:1]
	one := run(Begin("one", theCopy, 0, e))
	idle := run(Continue("two", theCopy, one, e)) // nothing new: the place is kept
	e.hops = all
	three := run(Continue("three", theCopy, idle, e))
	if one.Different != 0 || idle.Different != 0 || three.Different != 1 || three.First[0].Kind != Phantom || three.First[0].Destination != 23 || three.Records != 2 {
		t.Errorf("got %+v, then %+v, then %+v", one, idle, three)
	}

	for name, c := range map[string]struct {
		next, want int64
	}{"where it ended": {15, 27}, "taken back since": {17, -1}, "forgotten since": {9, -1}} {
		p := Continue("four", theCopy, Progress{Next: c.next, Destination: 27}, e)
		if p.Destination != c.want {
			t.Errorf("%s: goes on from destination offset %d, want %d", name, p.Destination, c.want)
		}
	}
}

func TestBytesAreSpreadOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 20)
		var bytes int
		for _, b := range append(source.batches, dest.batches...) {
			bytes += len(b)
		}
		began := time.Now()
		r := NewRun(Config{
			Source: source, Destination: dest, Entries: e, Save: saved(nil), BytesPerSecond: func() int64 { return int64(bytes) / 60 },
		})
		if _, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 0, e)}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 59*time.Second || took > 62*time.Second {
			t.Errorf("took %v, want a minute", took)
		}
	})
}

// TestAResponseIsASharesSize: a small rate is a steady trickle, and not a burst with
// nothing behind it.
func TestAResponseIsASharesSize(t *testing.T) {
	for rate, want := range map[int64]int{0: FetchBytes, 1: minShare, 64 << 10: 8 << 10, 5 << 20: 640 << 10, 1 << 40: FetchBytes} {
		if got := share(rate); got != want {
			t.Errorf("at %d bytes a second: got %d, want %d", rate, got, want)
		}
	}
	const rate = 64 << 10
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 300)
		source.perFetch, dest.perFetch = 0, 0
		r := NewRun(Config{Source: source, Destination: dest, Entries: e, Save: saved(nil), BytesPerSecond: func() int64 { return rate }})
		got, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 0, e)})
		if err != nil || got[0].Records != 600 || got[0].Different != 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
		if most := max(source.largest, dest.largest); most > share(rate) || most < share(rate)/2 {
			t.Errorf("a response had %d bytes, want at most %d", most, share(rate))
		}
	})
}

func TestAClusterThatFailsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 6)
		until := time.Now().Add(20 * time.Second)
		dest.fail = func(offset int64) error {
			if offset >= 6 && time.Now().Before(until) {
				return errors.New("not now")
			}
			return nil
		}
		if got := compare(t, theCopy, source, dest, e); got.Records != 12 || got.Problem != "" || got.Different != 0 {
			t.Errorf("got %+v", got)
		}
	})
}

func TestAClusterThatStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 6)
		dest.fail = func(offset int64) error {
			if offset >= 6 {
				return errors.New("not now")
			}
			return nil
		}
		got := compare(t, theCopy, source, dest, e)
		var r Report
		if got.Records != 6 || !got.Done || got.Problem != "destination: not now" || r.summed(got) != Incomplete {
			t.Errorf("got %s %+v", r.Verdict, got)
		}
	})
}

// TestWhatTheLedgerTakesBack is compared as it is copied again, elsewhere, while the
// comparison runs; what is not copied again yet is not a difference.
func TestWhatTheLedgerTakesBack(t *testing.T) {
	for _, fails := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			source, dest, e := long(t, 10)
			source.fail = func(offset int64) error {
				if offset != 8 {
					return nil
				}
				source.fail = nil
				// The destination was cut back to 4, and the rest is written from there.
				for i := int64(0); i < 5; i++ {
					dest.batches[4+i] = moved(source.batches[4+i], 4+2*i)
					e.hops[4+i] = hop(8+2*i, 10+2*i, []ledger.Run{rawRun(4+2*i, source.batches[4+i])})
				}
				dest.batches, e.hops = append(dest.batches[:2:2], dest.batches[4:9]...), e.hops[:9]
				if fails {
					return errors.New("asked again")
				}
				return nil
			}
			got := compare(t, theCopy, source, dest, e)
			if got.Different != 0 || got.Records != 18 || got.Until != 18 || !got.Done || got.Problem != "" {
				t.Errorf("fails %v: got %+v", fails, got)
			}
		})
	}
}

// TestATopicThatIsGone counts all that was copied of it as not comparable, from where
// the comparison was.
func TestATopicThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 100)
		e.hops = append(e.hops, hop(200, 203, nil, ledger.Gap{Source: 200, Count: 3, Reason: ledger.Aborted}))
		source.fail = func(offset int64) error {
			if offset >= 21 {
				return kerr.UnknownTopicID
			}
			return nil
		}
		source.perFetch, dest.perFetch = 1, 1
		began := time.Now()
		got := compare(t, theCopy, source, dest, e)
		var r Report
		if got.Records != 22 || got.NotComparable[GoneAtSource] != 178 || got.Gaps["aborted"] != 3 || got.GapsUnchecked != 3 || !got.Done || got.Next != 203 || r.summed(got) != EqualWhereComparable {
			t.Errorf("got %s %+v", r.Verdict, got)
		}
		if took := time.Since(began); took < goneAfter {
			t.Errorf("given up after %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the destination must have it
		source, dest, e := long(t, 2)
		dest.fail = func(int64) error { return kerr.UnknownTopicID }
		got := compare(t, theCopy, source, dest, e)
		var r Report
		if r.summed(got) != Incomplete || got.Problem == "" {
			t.Errorf("got %s %+v", r.Verdict, got)
		}
	})
}

// TestAnOpenTransactionIsWaitedFor has one side show later what the ledger shows already:
// that is neither a loss nor a phantom. A copy that preserves offsets is ahead of the
// source's transactions.
func TestAnOpenTransactionIsWaitedFor(t *testing.T) {
	for name, pick := range map[string]func(source, dest *log) *log{
		"the source": func(source, _ *log) *log { return source }, "the destination": func(_, dest *log) *log { return dest },
	} {
		synctest.Test(t, func(t *testing.T) {
			source, dest, e := long(t, 3)
			pick(source, dest).openUntil = 2
			if got := compare(t, theCopy, source, dest, e); got.Records != 6 || got.Different != 0 || got.Problem != "" {
				t.Errorf("%s: got %+v", name, got)
			}
			source, dest, e = long(t, 3)
			pick(source, dest).stable = 4
			got := compare(t, theCopy, source, dest, e)
			if got.Records != 4 || got.Different != 0 || got.Problem != errHeld.Error() {
				t.Errorf("%s, one that stays open: got %+v", name, got)
			}
		})
	}
}

func TestProgressThatCannotBeSavedEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, dest, e := long(t, 3)
		refused := errors.New("not the owner")
		r := NewRun(Config{
			Source: source, Destination: dest, Entries: e, BytesPerSecond: func() int64 { return 1 },
			Save: func(context.Context, []Progress) error { return refused },
		})
		r.changed[0] = true
		if _, err := r.Do(t.Context(), []Copy{theCopy}, []Progress{Begin("run", theCopy, 0, e)}); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFewDifferencesAreKeptInWords(t *testing.T) {
	source, dest, e := long(t, 300)
	for i, b := range dest.batches {
		dest.batches[i] = batch(t, b.BaseOffset(), record.None, recs("x", "y")...)
	}
	got := compare(t, theCopy, source, dest, e)
	if got.Different != 600 || len(got.First) != keepOfCopy {
		t.Errorf("got %d differences, %d in words", got.Different, len(got.First))
	}
	var all []Progress
	for range 50 {
		all = append(all, got)
	}
	var r Report
	if r.summed(all...); r.Different != 50*600 || len(r.First) != keepOfRun {
		t.Errorf("got %d differences, %d in words", r.Different, len(r.First))
	}
}

func TestReport(t *testing.T) {
	began := time.Unix(1000, 0)
	r := Report{State: Running, Started: began}
	r.Sum([]Progress{
		{From: 0, Next: 30, Until: 100, Tally: Tally{Records: 28, Gaps: map[string]int64{"control": 2}}},
		{From: 50, Next: 100, Until: 100, Done: true, Tally: Tally{Records: 49, Gaps: map[string]int64{"control": 1}}},
	}, began.Add(8*time.Second))
	want := Report{
		State: Running, Verdict: Open, Started: began, Copies: 2, CopiesDone: 1, Offsets: 150, Compared: 80, ETASeconds: 7,
		ETABasis: "70 offsets are left, 10 a second were compared since it began",
		Tally:    Tally{Records: 77, Gaps: map[string]int64{"control": 3}},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got  %+v\nwant %+v", r, want)
	}
}
