package cluster

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An answer is for those who came before its question was put, and for all of them.
func TestARoundAnswersWhoCameBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan error)
		asked := 0
		q := newRounds(0, func(context.Context) error { asked++; return <-answers })
		var first, late sync.WaitGroup
		var firstErr error
		first.Go(func() { firstErr = q.join(t.Context()) })
		synctest.Wait()
		lateErrs := make([]error, 100)
		for i := range lateErrs {
			late.Go(func() { lateErrs[i] = q.join(t.Context()) })
		}
		synctest.Wait()
		if asked != 1 {
			t.Fatalf("%d questions at once", asked)
		}
		answers <- nil
		first.Wait()
		if firstErr != nil {
			t.Error(firstErr)
		}
		synctest.Wait()
		deposed := errors.New("deposed")
		answers <- deposed
		late.Wait()
		for _, err := range lateErrs {
			if !errors.Is(err, deposed) {
				t.Fatalf("%v to one who came after the first question had been put", err)
			}
		}
		if asked != 2 {
			t.Errorf("%d questions", asked)
		}
	})
}

// However many want to know, a question is put no more often than it may be; one who
// finds nobody before him does not wait.
func TestRoundsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every, span, nodes = 25 * time.Millisecond, 10 * time.Second, 200
		asked := 0
		q := newRounds(every, func(context.Context) error { asked++; return nil })
		began := time.Now()
		if err := q.join(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %s to one alone", err, time.Since(began))
		}
		var all sync.WaitGroup
		joined := make([]int, nodes)
		for n := range nodes {
			all.Go(func() {
				tick := time.NewTicker(250*time.Millisecond + time.Duration(n)*time.Microsecond)
				defer tick.Stop()
				for time.Since(began) < span {
					<-tick.C
					if err := q.join(t.Context()); err != nil {
						t.Error(err)
					}
					joined[n]++
				}
			})
		}
		all.Wait()
		total := 0
		for _, n := range joined {
			total += n
		}
		if most := int(time.Since(began)/every) + 1; asked > most || total < 39*nodes {
			t.Errorf("%d questions for %d who wanted to know, at most %d are due", asked, total, most)
		}
	})
}

// One who gives up takes the answer from nobody.
func TestWhoGivesUpLeavesTheRoundToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newRounds(time.Second, func(ctx context.Context) error { return ctx.Err() })
		if err := q.join(t.Context()); err != nil {
			t.Fatal(err)
		}
		impatient, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		var all sync.WaitGroup
		var gaveUp, stayed error
		all.Go(func() { gaveUp = q.join(impatient) })
		synctest.Wait() // it has the turn, and waits until it may ask
		all.Go(func() { stayed = q.join(t.Context()) })
		synctest.Wait()
		cancel(gone)
		all.Wait()
		if !errors.Is(gaveUp, gone) || stayed != nil {
			t.Errorf("%v to who gave up, %v to who stayed", gaveUp, stayed)
		}
	})
}
