package broker

import (
	"log/slog"
	"testing"

	"github.com/waybillhq/waybill/broker/replica"
)

// While the ledger takes nothing, as on a disk that hangs, what waits is bounded,
// and what is dropped is counted.
func TestProvenanceThatCannotBeWrittenIsBounded(t *testing.T) {
	p := &provenance{runs: map[runKey]*run{}, exempt: map[string]bool{}, kick: make(chan struct{}, 1), metrics: &Metrics{}, log: slog.New(slog.DiscardHandler)}
	part := &replica.Partition{Identity: replica.Identity{Topic: "orders"}}
	c := &Client{Principal: "User:shop"}
	const noted = maxWaiting + 5_000
	for i := range int64(noted) {
		if i%2 == 0 {
			p.produced(c, part, i, 0, 0) // a producer of its own
		} else {
			p.fetched(c, part, 10*i, 10*i) // one client, here and there
		}
	}
	runs, lost := p.take()
	if len(runs) != maxWaiting || int64(len(runs))+lost != noted {
		t.Errorf("%d wait and %d are lost of %d, want %d to wait", len(runs), lost, noted, maxWaiting)
	}
	p.produced(c, part, 1, 5, 9)
	if runs, lost := p.take(); len(runs) != 1 || lost != 0 {
		t.Errorf("afterwards %d wait and %d are lost, want 1 and none", len(runs), lost)
	}
}
