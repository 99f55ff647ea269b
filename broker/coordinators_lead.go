package broker

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/broker/replica"
)

const (
	// leadRest is how long a partition whose leadership has failed waits to be led
	// again, at first, and longestLeadRest how long when it fails again and again.
	leadRest        = 100 * time.Millisecond
	longestLeadRest = time.Minute
)

// leadership keeps one partition of a coordinator's topic led. What befalls it
// concerns no other partition.
type leadership struct {
	b *Broker
	p *replica.Partition
	// lead takes the partition, and returns what serves it until its context ends
	// or the log fails; down says that it cannot be taken, and why.
	lead func() (serve func(context.Context) error, err error)
	down func(why error)

	serve func(context.Context) error
	told  string // the last reason that was logged
}

// lead takes every partition of both topics, before the first client is answered,
// and returns what keeps them led until its context ends. Clients are gone by
// then, and logs close after it.
func (c *coordinators) lead() (keep func(ctx context.Context) error) {
	var all []*leadership
	take := func(p *replica.Partition, lead func() (func(context.Context) error, error), down func(int32, error)) {
		k := &leadership{b: c.b, p: p, lead: lead, down: func(why error) { down(p.Partition, why) }}
		k.take()
		all = append(all, k)
	}
	for _, p := range c.b.topic(offsetsTopic).partitions {
		take(p, func() (func(context.Context) error, error) {
			return c.groups.Lead(p.Partition, groupLog{partitionLog{p}})
		}, c.groups.Down)
	}
	for _, p := range c.b.topic(transactionsTopic).partitions {
		take(p, func() (func(context.Context) error, error) {
			return c.txns.Lead(p.Partition, p.LeaderEpoch(), partitionLog{p})
		}, c.txns.Down)
	}
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, k := range all {
			group.Go(func() error {
				return guard.Call(func() error { k.keep(ctx); return nil })
			})
		}
		return group.Wait()
	}
}

// take leads the partition, unless its log takes no writes until the broker is
// started again.
func (l *leadership) take() {
	l.serve = nil
	if h, cause := l.p.Health(); h == commitlog.Offline {
		l.down(cause)
		l.tell("the broker is started again", cause)
		return
	}
	serve, err := l.lead()
	if err != nil {
		l.down(err)
		l.tell("the broker is started again", err)
		return
	}
	l.serve = serve
}

// keep serves the partition, and leads it again when that has failed.
func (l *leadership) keep(ctx context.Context) {
	for rest := leadRest; l.serve != nil; l.take() {
		began := time.Now()
		err := l.serve(ctx)
		if ctx.Err() != nil && !guard.Is(err) {
			return
		}
		if errors.Is(err, commitlog.ErrClosed) {
			return // the broker stops
		}
		if h, _ := l.p.Health(); h != commitlog.Offline {
			l.tell("it has read its log anew", err)
		}
		if rest = min(2*rest, longestLeadRest); time.Since(began) > longestLeadRest {
			rest = leadRest
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
	}
}

// tell logs why a coordinator is not there, once for each reason, and until when.
func (l *leadership) tell(until string, why error) {
	if why.Error() != l.told {
		l.told = why.Error()
		l.b.log.Error("coordinator is down: requests for it are answered COORDINATOR_NOT_AVAILABLE",
			append([]any{"topic", l.p.Topic, "partition", l.p.Partition, "until", until}, guard.About(why)...)...)
	}
}
