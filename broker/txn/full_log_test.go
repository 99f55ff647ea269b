package txn

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestAFullLogChangesNothing: what a log refuses has not happened, for producers
// and for time; and what is decided is completed when there is room.
func TestAFullLogChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		r := newRig(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&told, nil)) })
		full := func(is bool) {
			r.log.set(func() {
				r.log.refuse, r.log.tries = nil, 0
				if is {
					r.log.refuse = fmt.Errorf("%w: no room", kerr.CoordinatorNotAvailable)
				}
			})
		}
		open, deciding := r.init("open", NoProducer), r.init("deciding", NoProducer)
		r.add("open", open, a0)
		r.add("deciding", deciding, b1)
		gate := make(chan struct{})
		r.parts.set(func() { r.parts.gate = gate })
		if err := r.end(t.Context(), "deciding", deciding, true); err != nil {
			t.Fatal(err)
		}
		full(true)
		close(gate) // the marker is written, and its transaction cannot be completed
		for what, err := range map[string]error{
			"end": r.end(t.Context(), "open", open, true),
			"add": r.AddPartitions(t.Context(), "open", V0, open, []TopicPartition{b1}),
			"init": func() error {
				_, err := r.InitProducer(t.Context(), "new", time.Minute, NoProducer)
				return err
			}(),
		} {
			if !errors.Is(err, kerr.CoordinatorNotAvailable) {
				t.Errorf("%s: got %v, want COORDINATOR_NOT_AVAILABLE", what, err)
			}
		}
		full(true)
		time.Sleep(2 * time.Minute) // the transaction's time is over, and it cannot be ended
		r.wantState("open", Ongoing)
		r.wantState("deciding", PrepareCommit)
		if _, err := r.Get(t.Context(), "new"); !errors.Is(err, kerr.TransactionalIDNotFound) {
			t.Errorf("an id that could not be written: %v", err)
		}
		if r.log.tries < 60 || r.log.tries > 300 {
			t.Errorf("%d tries in two minutes, want one or two a second", r.log.tries)
		}
		if n := bytes.Count(told.Bytes(), []byte("\n")); n > 3 {
			t.Errorf("%d lines are logged:\n%s", n, told.String())
		}
		full(false)
		time.Sleep(2 * lastRetry)
		r.wantState("open", CompleteAbort)
		r.wantState("deciding", CompleteCommit)
		r.crash()
		r.wantState("open", CompleteAbort)
		r.wantState("deciding", CompleteCommit)
	})
}
