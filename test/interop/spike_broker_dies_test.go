//go:build interop

package interop

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeBrokerDies kills the broker around a commit. What was acknowledged
// holds when it is back, and a commit without an answer is settled by asking
// again.
func TestSpikeBrokerDies(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		ctx := t.Context()
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, "data", 1, nil)
		createTopic(t, c, ledger.Topic, 1, nil)
		p, book := tp("data", 0), tp(ledger.Topic, 0)
		l := newLane(t, c, "survivor")
		reconnect := func() {
			t.Helper()
			b.Kill()
			must(t, "run again", b.Run(ctx))
			again := newClosedLane(t, c, l.id)
			again.pid, again.epoch, again.seq = l.pid, l.epoch, l.seq
			l = again
		}
		write := func(name string) {
			t.Helper()
			must(t, "add", l.add(ctx, p, book))
			_, err := l.produce(ctx, p, l.stamped(p, batch(t, name, 1, longAgo)))
			must(t, "produce", err)
			_, err = l.produce(ctx, book, l.stamped(book, batch(t, "hop of "+name, 1, time.Now())))
			must(t, "produce", err)
		}
		settle := func() (err error) {
			must(t, "settle", poll(ctx, func() (bool, error) {
				err = l.end(ctx, true)
				return unlessOneOf(err, kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator) != nil || err == nil, nil
			}))
			return err
		}

		write("answered")
		must(t, "commit", l.end(ctx, true))
		reconnect()
		expect(t, "killed after the commit was answered: commit again", settle(), "NONE")

		write("unanswered")
		end := l.sendEnd(ctx, true)
		b.Kill()
		_, err := end.Wait(ctx)
		t.Logf("killed when the commit had been sent: %v", err)
		reconnect()
		expect(t, "commit again", settle(), "NONE")

		write("open")
		reconnect()
		expect(t, "killed when the transaction was open: commit", settle(), "NONE")

		for q, want := range map[string][]string{"data": {"answered-0", "unanswered-0", "open-0"}, ledger.Topic: {"hop of answered-0", "hop of unanswered-0", "hop of open-0"}} {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			got, err := readCommitted(ctx, c, tp(q, 0))
			cancel()
			must(t, "read", err)
			if !slices.Equal(values(got), want) {
				t.Errorf("%s: read %q, want %q", q, values(got), want)
			}
		}
	})
}
