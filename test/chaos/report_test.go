//go:build chaos && interop && unix

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// row is what became of one pair.
type row struct {
	verdict
	twins       twin
	pair        pair
	faults      map[string]int // by name, as often as done
	kills       int
	inFlight    int // kills at which the destination had requests with records that were not answered
	requests    int // such requests, at all kills
	pauses      int
	lostAnswers int
	epochs      int // at which copies were begun
	acked       int64
	bytes       int64
	txns        int64
	aborts      int64
	seconds     float64
	waits       []time.Duration // from a fault until the copy held all that was acknowledged then
}

func (r *row) account(f *flood, c *comparer) {
	for _, counts := range f.counts() {
		for _, n := range counts {
			r.acked += n
		}
	}
	r.bytes, r.txns, r.aborts, r.seconds = f.bytes.Load(), f.txns.Load(), f.aborts.Load(), f.took.Seconds()
	r.waits = slices.Sorted(slices.Values(c.waits))
}

func (r *row) rate() float64 { return float64(r.bytes) / 1e6 / r.seconds }

// wait is a quantile of the recoveries.
func (r *row) wait(quantile float64) float64 {
	if len(r.waits) == 0 {
		return 0
	}
	return r.waits[int(quantile*float64(len(r.waits)-1))].Seconds()
}

// report is the table at the end.
type report struct{ rows []row }

func (a *report) print(t *testing.T, seed uint64) {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(what string, cell func(*row) any) {
		fmt.Fprintf(w, "%s\t", what)
		for i := range a.rows {
			fmt.Fprintf(w, "%v\t", cell(&a.rows[i]))
		}
		fmt.Fprintln(w)
	}
	line("from", func(r *row) any { return r.pair.from })
	line("to", func(r *row) any { return r.pair.to })
	line("offsets", func(r *row) any { return r.pair.offsets })
	for _, f := range mirrorFaults {
		line(f.name, func(r *row) any { return r.faults[f.name] })
	}
	line("owners killed", func(r *row) any { return r.kills })
	line("  with records in flight", func(r *row) any { return r.inFlight })
	line("  requests in flight then", func(r *row) any { return r.requests })
	line("owners suspended", func(r *row) any { return r.pauses })
	line("answers lost", func(r *row) any { return r.lostAnswers })
	line("epochs of copies", func(r *row) any { return r.epochs })
	line("seconds of load", func(r *row) any { return fmt.Sprintf("%.0f", r.seconds) })
	line("MB/s written", func(r *row) any { return fmt.Sprintf("%.1f", r.rate()) })
	line("transactions", func(r *row) any { return r.txns })
	line("  aborted", func(r *row) any { return r.aborts })
	line("records acknowledged", func(r *row) any { return r.acked })
	line("records mirrored", func(r *row) any { return r.compared })
	line("lost", func(r *row) any { return r.lost })
	line("doubled", func(r *row) any { return r.doubled })
	line("reordered", func(r *row) any { return r.reordered })
	line("altered", func(r *row) any { return r.altered })
	line("phantoms", func(r *row) any { return r.phantoms })
	line("offsets compared for every reader", func(r *row) any { return r.twins.compared })
	line("  wrong", func(r *row) any { return r.twins.wrong })
	line("recovery p50, s", func(r *row) any { return fmt.Sprintf("%.1f", r.wait(0.5)) })
	line("recovery worst, s", func(r *row) any { return fmt.Sprintf("%.1f", r.wait(1)) })
	_ = w.Flush()
	t.Logf("seed %d\n%s", seed, s.String())
}

// judge fails what was not shown: a run that has not done what it is for.
func (a *report) judge(t *testing.T, kills int, rate float64) {
	var done, inFlight int
	for i := range a.rows {
		r := &a.rows[i]
		done, inFlight = done+r.kills, inFlight+r.inFlight
		if n := r.wrong() + r.twins.wrong; n != 0 {
			t.Errorf("%s: %d records are wrong", r.pair.name, n)
		}
		if r.compared != r.acked {
			t.Errorf("%s: %d records are acknowledged, %d mirrored", r.pair.name, r.acked, r.compared)
		}
		if r.rate() < rate {
			t.Errorf("%s: %.1f MB/s were written of %.1f: the machine is too busy for this", r.pair.name, r.rate(), rate)
		}
	}
	if done < kills || inFlight*4 < kills*3 {
		t.Errorf("%d owners were killed, %d with records in flight; wanted %d, and three quarters of them", done, inFlight, kills)
	}
}
