//go:build interop

package interop

import (
	"testing"
	"time"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikePace measures what a transaction of a lane costs, by partitions. It
// asserts nothing.
func TestSpikePace(t *testing.T) {
	onEach(t, nil, func(t *testing.T, b *apachekafka.Broker) {
		c := b.Cluster(apachekafka.Admin)
		createTopic(t, c, "pace", 100, nil)
		l := newLane(t, c, "pace")
		for _, n := range []int{1, 10, 100} {
			var add, data, end time.Duration
			const rounds = 30
			for range rounds {
				a, d, e := paced(t, l, n)
				add, data, end = add+a, data+d, end+e
			}
			t.Logf("%3d partitions: AddPartitionsToTxn with the wait for the markers before %s, one request of data %s, EndTxn %s",
				n, (add / rounds).Round(10*time.Microsecond), (data / rounds).Round(10*time.Microsecond), (end / rounds).Round(10*time.Microsecond))
		}
	})
}

func paced(t *testing.T, l *lane, n int) (add, data, end time.Duration) {
	t.Helper()
	ctx := t.Context()
	var all []flow.TopicPartition
	batches := map[flow.TopicPartition]record.Batch{}
	for i := range n {
		p := tp("pace", int32(i))
		all = append(all, p)
		batches[p] = l.stamped(p, three(t, "a"))
	}
	began := time.Now()
	must(t, "add", l.add(ctx, all...))
	added := time.Now()
	got, err := acks(ctx, l.send(ctx, batches))
	must(t, "produce", err)
	for _, a := range got {
		must(t, "produce", a.Err)
	}
	written := time.Now()
	must(t, "commit", l.end(ctx, true))
	return added.Sub(began), written.Sub(added), time.Since(written)
}
