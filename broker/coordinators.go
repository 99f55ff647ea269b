package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
)

// coordinators are the group and transaction coordinators of this node, which
// leads every partition of their topics.
type coordinators struct {
	b *Broker
}

// openCoordinators builds the coordinators over the partitions of their topics,
// which are open: see partitionLog. It runs before any client is served.
func openCoordinators(b *Broker) (*coordinators, error) {
	return &coordinators{b: b}, nil
}

// run serves until ctx ends. Clients are gone by then, and logs close after it.
func (c *coordinators) run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// verifyTransaction confirms that a partition is in the ongoing transaction of a
// producer, before its first batch there is appended (KIP-890).
func (c *coordinators) verifyTransaction(_ context.Context, _ string, _ int64, _ int16, _ string, _ int32) error {
	return kerr.CoordinatorNotAvailable
}
