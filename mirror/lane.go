package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// lane is one producer id and the loop that writes with it: for all copies that are
// ready, transaction after transaction. Its session is what a transaction is at the
// destination, or without one. run is the only goroutine that touches anything below
// complaint.
type lane struct {
	Config
	id          string // of exactly-once: the transactional id
	plain       bool   // at-least-once: its transactions are none to the destination
	destination *peer
	metrics     *Metrics
	log         *slog.Logger
	load        int // copies; the flow's loop counts them

	readyList
	complaint

	session   session
	conns     map[int32]*kafka.Conn
	pid       int64
	epoch     int16
	announced int64 // the producer id that the ledger has as ours, -1
	sequence  map[flow.TopicPartition]int32
	writer    ledger.WriterID
	chains    map[int32]*ledger.Chain

	open     bool    // a transaction may be open
	doubt    []*part // of the transaction that failed; nil when none did
	unclear  bool    // its commit was asked for and not answered
	interval time.Duration
	limit    int64 // bytes that a transaction may hold, at most most
	most     int64
}

func newLane(cfg Config, id string, plain bool, destination *peer, m *Metrics, log *slog.Logger) *lane {
	l := &lane{
		Config: cfg, id: id, plain: plain, destination: destination, metrics: m, log: log.With("lane", id),
		readyList: newReadyList(), conns: map[int32]*kafka.Conn{}, announced: -1, interval: cfg.CommitInterval, limit: transactionBytes, most: transactionBytes,
	}
	if plain {
		l.session, l.limit, l.most = &plainSession{peer: destination, pid: -1}, plainBytes, plainBytes
		return l
	}
	l.session = &coordinator{peer: destination, clientID: cfg.ClientID, id: id, timeout: cfg.TransactionTimeout, waiting: l.say, wait: cfg.bounded(coordinatorWait)}
	return l
}

func (l *lane) leave() { l.load-- }

// run writes until the context ends. It returns ErrFenced when the incarnation
// of this node is over, and nil after a stop that left nothing undecided or,
// failing that, gave up after the time that a stop may take.
func (l *lane) run(ctx context.Context) error {
	defer l.close()
	wait := l.bounded(backoff{min: 50 * time.Millisecond, max: 5 * time.Second})
	for {
		err := l.start(ctx)
		if err == nil {
			err = l.serve(ctx, &wait)
		}
		switch {
		case errors.Is(err, ErrFenced):
			return err
		case ctx.Err() != nil:
			return l.end()
		}
		l.log.Warn("lane starts again", "err", err)
		if slices.ContainsFunc(l.doubt, func(p *part) bool { return p.fault != nil }) {
			wait.n = 0 // it is for those copies to wait
		}
		l.say(fmt.Errorf("lane: %w", err))
		if wait.sleep(ctx) != nil {
			return l.end()
		}
	}
}

// end ends what a stop has interrupted, so that readers of the destination do
// not wait for a transaction that nobody will end, and its copies may be given
// away. Nothing is written after it, so the lane is not registered again.
func (l *lane) end() error {
	if !l.open {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.StopTimeout)
	defer cancel()
	_, _, err := l.session.init(ctx)
	if err == nil {
		l.open = false
		err = l.settle(ctx)
	}
	if err != nil {
		l.log.Warn("lane left a transaction behind", "err", err)
	}
	return nil
}

func (l *lane) close() {
	l.session.close()
	for id, conn := range l.conns {
		_ = conn.Close()
		delete(l.conns, id)
	}
}

// start makes the lane usable: it fences what used the transactional id before,
// has this registered, settles the transaction that failed, and announces its
// producer id. The order is the fencing argument: registered after it is known,
// used after it is registered.
func (l *lane) start(ctx context.Context) error {
	for id, conn := range l.conns { // what was in flight on them is void now
		_ = conn.Close()
		delete(l.conns, id)
	}
	pid, epoch, err := l.session.init(ctx)
	if err != nil {
		return fmt.Errorf("open lane: %w", err)
	}
	l.open = false // what was is settled
	registered := Lane{TransactionalID: l.id, ClusterID: l.destination.id, ProducerID: pid, ProducerEpoch: epoch}
	if l.plain {
		registered.ProducerEpoch = unfenced
	}
	err = l.Lanes.Register(ctx, registered)
	if errors.Is(err, ErrEnded) {
		return fmt.Errorf("register lane %s: %w: %w", l.id, ErrFenced, err)
	}
	if err != nil {
		return fmt.Errorf("register lane: %w", err)
	}
	l.metrics.LaneOpens.Add(1)
	l.pid, l.epoch = pid, epoch
	l.sequence = map[flow.TopicPartition]int32{}
	l.writer = ledger.WriterID(uuid.New())
	l.chains = map[int32]*ledger.Chain{}
	if err := l.settle(ctx); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if l.announced != pid || l.plain {
		if err := l.announce(ctx); err != nil {
			return fmt.Errorf("announce producer id %d: %w", pid, err)
		}
		l.announced = pid
	}
	return nil
}

// settle gives the copies of the failed transaction their positions back. That
// transaction is decided since init has returned: aborted, unless its commit was
// asked for; then the ledger tells.
func (l *lane) settle(ctx context.Context) error {
	for len(l.doubt) > 0 {
		p := l.doubt[0]
		position, epoch := p.from, p.fromEpoch
		if l.unclear && !l.plain {
			at, err := l.Positions.Position(ctx, l.destination.cluster.Metadata.Name, p.id)
			if err != nil {
				return err
			}
			if at.Exists {
				position, epoch = at.Next, at.SourceLeaderEpoch
			}
			if err := ownedBy(at, &l.Config, p.c.a.Epoch); err != nil {
				p.fault = err
			}
		}
		if p.fault == nil && p.correct != nil && (l.unclear || l.plain) {
			p.fault = fmt.Errorf("%w: whether the ledger was told is not known", errSuspect)
		}
		if p.fault == nil && (l.plain && p.sent || p.remnant != nil) {
			p.fault = errUnmatched
		}
		p.c.settle(position, epoch, p.fault)
		l.doubt = l.doubt[1:]
	}
	l.doubt, l.unclear = nil, false
	return nil
}

// quiet is how long a lane is left alone before it is taken to be well again
// without having written anything.
const quiet = 5 * time.Second

// serve runs transactions until one fails or the context ends. Only one that
// was committed, or a while in which nobody wanted one, shows that what made the
// lane start again has passed: before that, each failure makes wait longer.
func (l *lane) serve(ctx context.Context, wait *backoff) error {
	calm := time.After(quiet)
	if wait.n <= 1 {
		l.say(nil)
	}
	for {
		select {
		case <-l.wake:
		case <-calm:
			calm, wait.n = nil, 0
			l.say(nil)
			continue
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.retire()
		hard, cancel := l.hard(ctx)
		t := newTransaction(l)
		err := t.run(ctx, hard)
		l.limit = nextLimit(l.limit, l.most, t.bytes, err == nil, errors.Is(hard.Err(), context.DeadlineExceeded))
		cancel()
		if err != nil {
			l.metrics.Aborts.Add(1)
			l.doubt, l.unclear = t.parts, t.unclear
			if t.unclear {
				l.metrics.Unclear.Add(1)
			}
			if isFencing(err) {
				l.log.Warn("producer epoch is no longer ours: the registration decides", "err", err)
			}
			return err
		}
		if len(t.parts) > 0 && wait.n > 0 {
			wait.n = 0
			l.say(nil)
		}
	}
}

// minTransactionBytes is what a transaction may hold at least: two of the largest
// batches that topics take by default.
const minTransactionBytes = 2 << 20

// nextLimit is how much the next transaction may hold. A destination that is slower
// than a transaction is full (its quota, its link) would time out every one of them:
// they become smaller until they pass, and grow again then.
func nextLimit(limit, most, held int64, committed, late bool) int64 {
	switch {
	case late:
		return max(min(limit, held)/4, minTransactionBytes)
	case committed && held >= limit:
		return min(limit+limit/8, most)
	}
	return limit
}

// hard bounds a transaction: a stop lets it end that is under way, within
// StopTimeout.
func (l *lane) hard(ctx context.Context) (context.Context, context.CancelFunc) {
	hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.TransactionTimeout/2)
	forget := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(l.StopTimeout):
			cancel()
		case <-hard.Done():
		}
	})
	return hard, func() { forget(); cancel() }
}

// announce registers the producer id in the ledger, in a transaction of its own:
// a reader that meets a batch of ours finds its writer there already. A lane without
// transactions does so in every partition of the ledger and after each fault: by its
// new epoch, what it had in flight there is refused from then on.
func (l *lane) announce(ctx context.Context) error {
	ctx, cancel := l.hard(ctx)
	defer cancel()
	t := newTransaction(l)
	t.announcement = &ledger.Writer{
		Cluster: l.destination.id, ProducerID: l.pid, ProducerEpoch: l.epoch, Lane: l.id,
		Fleet: l.Fleet, Node: l.Node, At: time.Now().UTC(),
	}
	return t.finish(ctx)
}

// connection is the lane's connection to a broker of the destination: one, so
// that the batches of a partition stay in order.
func (l *lane) connection(ctx context.Context, broker int32, v *view) (*kafka.Conn, error) {
	if conn := l.conns[broker]; conn != nil {
		return conn, nil // a broken one says so itself
	}
	conn, err := kafka.Dial(ctx, l.destination.cluster, v.brokers[broker], l.ClientID)
	if err != nil {
		return nil, err
	}
	l.conns[broker] = conn
	return conn, nil
}

// retire closes connections that should not begin another transaction.
func (l *lane) retire() {
	for id, conn := range l.conns {
		if !conn.Usable() {
			_ = conn.Close()
			delete(l.conns, id)
		}
	}
}
