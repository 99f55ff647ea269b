package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// Either side of a copy can lose what was copied: by an unclean election, by a disk
// that went back in time. What the ledger says is then not so. It is found by
// comparing leader epochs (KIP-101, KIP-320) at three moments: when a copy starts,
// when its leader changes, and at the destination each minute. A copy is never
// corrected while it runs: whoever finds something sends it back to its start,
// where nothing of it is under way, and what is to be done is decided there.

// guardInterval is how often the destination is asked whether it still has what it
// took: copies that have nothing to write would not notice.
const guardInterval = time.Minute

// correction is what a copy begins with after a loss: what the ledger is told, and
// where its last word was.
type correction struct {
	ledger.Retraction
	resume int64
}

// recall compares a position with what both sides have now. It returns the position
// from which the copy goes on, with what has to be said about that; or an error
// where going on would splice or skip.
func (f *flowRun) recall(ctx context.Context, c *copier, at Position, epochEnd int64) (Position, *correction, error) {
	if c.cutBack() {
		cut, err := f.sourceCut(ctx, c.source(), at)
		if err != nil {
			return at, nil, err
		}
		if cut < at.Next {
			return f.correct(ctx, c, at, cut, math.MaxInt64, ledger.LostAtSource)
		}
	}
	_, leader, err := f.destination.view().leader(c.a.DestinationTopic, c.a.Partition)
	if err != nil {
		return at, nil, fmt.Errorf("destination: %w", err)
	}
	cut, err := f.destinationCut(ctx, c, at, epochEnd)
	if err != nil {
		return at, nil, err
	}
	at.DestinationLeaderEpoch = leader // under which it has what is left
	if cut < 0 {
		return at, nil, nil
	}
	if f.spec.Spec.Policies.OnLoss == flow.LossStop {
		return at, nil, fmt.Errorf("%v: %w: it was cut back to %d, the copy wrote up to %d", c.destination(), errLost, cut, at.Destination)
	}
	return f.correct(ctx, c, at, math.MaxInt64, cut, ledger.LostAtDestination)
}

// correct is a position without what lies beyond a cut.
func (f *flowRun) correct(ctx context.Context, c *copier, at Position, source, destination int64, lost ledger.LostSide) (Position, *correction, error) {
	before, err := f.cfg.Positions.PositionBefore(ctx, c.a.Destination.Metadata.Name, c.id, source, destination)
	if err != nil {
		return at, nil, fmt.Errorf("%w: read the ledger: %w", errUnresolved, err)
	}
	k := &correction{resume: at.Next, Retraction: ledger.Retraction{
		Copy: c.id.Key(), Epoch: c.a.Epoch, Source: before.Next, Destination: max(0, before.Destination), Lost: lost,
	}}
	if lost == ledger.LostAtDestination {
		k.Destination = destination
	} else {
		before.Destination = at.Destination // what is there stays there
	}
	before.DestinationLeaderEpoch = at.DestinationLeaderEpoch
	f.log.Warn("records that were copied are lost", "side", lost, "source", c.source(), "destination", c.destination(),
		"back to", k.Source, "was at", k.resume, "destination offset", k.Destination)
	return before, k, nil
}

// sourceCut is the source offset up to which both sides have the same records. It
// is that of a follower which looks where it has left its leader (KIP-101): asked
// for an epoch, the source tells the end of the latest one up to it that it has.
func (f *flowRun) sourceCut(ctx context.Context, tp flow.TopicPartition, at Position) (int64, error) {
	epoch := at.SourceLeaderEpoch
	for epoch >= 0 {
		var ask kadm.OffsetForLeaderEpochRequest
		ask.Add(tp.Topic, tp.Partition, epoch)
		answers, err := kadm.NewClient(f.source.client).OffsetForLeaderEpoch(ctx, ask)
		if err != nil {
			return 0, fmt.Errorf("look where %v was cut back: %w", tp, err)
		}
		answer, ok := answers[tp.Topic][tp.Partition]
		if !ok || answer.Err != nil {
			return 0, fmt.Errorf("look where %v was cut back: %w", tp, orElse(answer.Err, errors.New("the source does not tell")))
		}
		cut, lower := commonEnd(at, epoch, answer.LeaderEpoch, answer.EndOffset)
		if cut >= 0 {
			return cut, nil
		}
		epoch = lower
	}
	return 0, fmt.Errorf("%v: %w: of which leader epoch the last common records are is not known", tp, errTruncated)
}

// commonEnd is where the records end that both sides have of leader epochs up to
// one that was asked for, if the source answers that it has them of epoch has, up
// to end. cut is -1 if that is no epoch of the copy: then lower is the next one to
// ask for, or -1.
func commonEnd(at Position, asked, has int32, end int64) (cut int64, lower int32) {
	if has < 0 || end < 0 {
		return -1, -1
	}
	if has == asked && has == at.SourceLeaderEpoch {
		return min(end, at.Next), -1
	}
	lower, next := int32(-1), at.Next
	for i := len(at.Epochs) - 1; i >= 0; i-- {
		if at.Epochs[i].Epoch <= has {
			lower = at.Epochs[i].Epoch
			break
		}
		next = at.Epochs[i].Start
	}
	if lower == has {
		return min(end, next), -1
	}
	return -1, lower
}

// destinationCut is the destination offset from which on the copy's records are
// lost, -1 if none are. epochEnd is where the log of the epoch ends that took the
// last of them, -1 if that is not known.
func (f *flowRun) destinationCut(ctx context.Context, c *copier, at Position, epochEnd int64) (int64, error) {
	end, known := f.settings.end(c.destination())
	if !known || end >= at.Destination && (epochEnd < 0 || epochEnd >= at.Destination) {
		if known && c.wasIntruded() {
			return -1, fmt.Errorf("%v: %w", c.destination(), errIntruder)
		}
		return -1, nil
	}
	lost := fmt.Errorf("%v: %w: it ends at %d, the copy wrote up to %d", c.destination(), errLost, end, at.Destination)
	if epochEnd < 0 || epochEnd >= at.Destination {
		return -1, lost // of which leader's log it has what is not known
	}
	look, err := f.dialLeader(ctx, c.destination())
	if err != nil {
		return -1, err
	}
	defer func() { _ = look.Close() }() // it was only read from
	if end >= at.Destination {
		// A leader that was elected again before we noticed wrote under an epoch that
		// is newer than the one we knew.
		ours, err := endsTransaction(ctx, look, c.destination(), at.Destination)
		if err != nil || ours {
			return -1, err
		}
	}
	cut := min(epochEnd, end)
	alone, err := nothingCommitted(ctx, look, c.destination(), cut, end)
	switch {
	case err != nil:
		return -1, err
	case !alone:
		return -1, fmt.Errorf("%v: %w: it was cut back to %d, the copy had written up to %d, and others have written since", c.destination(), errRefilled, cut, at.Destination)
	}
	return cut, nil
}

// epochEnds asks the destination where the logs of epochs end. What it does not
// tell, or cannot, is left out.
func (f *flowRun) epochEnds(ctx context.Context, epochs map[flow.TopicPartition]int32) (map[flow.TopicPartition]int64, error) {
	if len(epochs) == 0 {
		return nil, nil
	}
	var ask kadm.OffsetForLeaderEpochRequest
	for tp, epoch := range epochs {
		ask.Add(tp.Topic, tp.Partition, epoch)
	}
	answers, err := kadm.NewClient(f.destination.client).OffsetForLeaderEpoch(ctx, ask)
	if some, ok := errors.AsType[*kadm.ShardErrors](err); err != nil && (!ok || some.AllFailed) {
		return nil, fmt.Errorf("ask the destination for its leader epochs: %w", err)
	}
	ends := map[flow.TopicPartition]int64{}
	for tp := range epochs {
		if a, ok := answers[tp.Topic][tp.Partition]; ok && a.Err == nil && a.LeaderEpoch >= 0 && a.EndOffset >= 0 {
			ends[tp] = a.EndOffset
		}
	}
	return ends, nil
}

func (f *flowRun) dialLeader(ctx context.Context, tp flow.TopicPartition) (*kafka.Conn, error) {
	v := f.destination.view()
	leader, _, err := v.leader(tp.Topic, tp.Partition)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	return kafka.Dial(ctx, f.destination.cluster, v.brokers[leader], f.cfg.ClientID)
}

// Isolation levels of a fetch.
const (
	readUncommitted int8 = 0
	readCommitted   int8 = 1
)

// readAt fetches a partition from an offset on. With an error of the partition comes
// what the broker says of it.
func readAt(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition, offset int64, size int32, isolation int8) (*kmsg.FetchResponseTopicPartition, error) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MinBytes, req.MaxBytes, req.IsolationLevel = -1, 0, size, isolation
	t := kmsg.NewFetchRequestTopic()
	t.Topic = tp.Topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = tp.Partition, offset, size
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := conn.Request(ctx, req, 11)
	if err != nil {
		return nil, err
	}
	resp := answer.(*kmsg.FetchResponse)
	err = kerr.ErrorForCode(resp.ErrorCode)
	if err == nil && (len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1) {
		err = kerr.UnknownServerError
	}
	var got *kmsg.FetchResponseTopicPartition
	if err == nil {
		got = &resp.Topics[0].Partitions[0]
		err = kerr.ErrorForCode(got.ErrorCode)
	}
	if err != nil {
		return got, fmt.Errorf("read %v at offset %d: %w", tp, offset, err)
	}
	return got, nil
}

// endsTransaction says whether the batch before an offset is one that a
// transaction wrote and that ends there, as the last of a copy does.
func endsTransaction(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition, offset int64) (bool, error) {
	p, err := readAt(ctx, conn, tp, offset-1, minPartitionBytes, readCommitted)
	if err != nil {
		return false, err
	}
	b, _, err := record.Next(p.RecordBatches)
	if err != nil {
		return false, nil // nothing there that can be read
	}
	return b.NextOffset() == offset && b.Attributes().Transactional() && !b.Attributes().Control(), nil
}

// nothingCommitted says whether [from, end) of a partition holds nothing but
// markers and what was aborted.
func nothingCommitted(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition, from, end int64) (bool, error) {
	for from < end {
		p, err := readAt(ctx, conn, tp, from, minPartitionBytes, readCommitted)
		if err != nil {
			return false, err
		}
		var list []abortedTxn
		for _, a := range p.AbortedTransactions {
			list = append(list, abortedTxn{a.ProducerID, a.FirstOffset})
		}
		before, ab := from, newAborts(list)
		for rest := p.RecordBatches; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				break // cut off: the rest comes with the next fetch
			}
			kind, err := ab.classify(b)
			if err != nil || kind == 0 && b.Count() > 0 && b.NextOffset() > before {
				return false, err
			}
			from = max(from, b.NextOffset())
		}
		if from == before {
			return false, fmt.Errorf("read %v at offset %d: a transaction there is not decided yet", tp, from)
		}
	}
	return true, nil
}

// guard looks, beside the flow's loop, whether the destination still has what
// running copies wrote there.
type guard struct {
	busy atomic.Bool
	last time.Time
	look time.Time // at the destination, after which copies were looked at
}

// kick asks about copies whose leader has changed, and each minute about all.
func (k *guard) kick(ctx context.Context, g *errgroup.Group, f *flowRun) {
	v, look := f.destination.view(), f.destination.lookedAt()
	all := time.Since(k.last) >= guardInterval
	if k.busy.Load() || look.Equal(k.look) && !all {
		return
	}
	k.look = look
	if all {
		k.last = time.Now()
	}
	epochs, asked := map[flow.TopicPartition]int32{}, map[flow.TopicPartition]guarded{}
	for _, c := range f.snapshot() {
		tp := c.destination()
		if _, leader, err := v.leader(tp.Topic, tp.Partition); err == nil {
			if w, ok := c.guard(leader, all); ok {
				epochs[tp], asked[tp] = w.epoch, w
			}
		}
	}
	if len(asked) == 0 {
		return
	}
	k.busy.Store(true)
	g.Go(func() error {
		defer k.busy.Store(false)
		ends, err := f.epochEnds(ctx, epochs)
		if err != nil {
			return nil // the next view asks again; a destination that does not answer shows
		}
		for tp, end := range ends {
			w := asked[tp]
			w.c.guardedAt(w.leader)
			if end < w.next {
				w.c.suspect(w.generation, fmt.Errorf("%v: %w: leader epoch %d ends at %d, the copy wrote up to %d", tp, errSuspect, w.epoch, end, w.next))
			}
		}
		return nil
	})
}

// guarded is what is asked about one copy.
type guarded struct {
	c             *copier
	generation    uint64
	epoch, leader int32 // that took the last record; that leads now
	next          int64 // after the last record
}

// guard says what to ask about a running copy, if its leader is another one than
// when it was last asked, or anyway.
func (c *copier) guard(leader int32, anyway bool) (guarded, bool) {
	c.mu.Lock()
	defer c.unlock()
	if c.state != Running || c.stopping || c.destEpoch < 0 || c.destNext <= 0 || !anyway && c.destGuarded == leader {
		return guarded{}, false
	}
	return guarded{c: c, generation: c.generation, epoch: c.destEpoch, leader: leader, next: c.destNext}, true
}

func (c *copier) guardedAt(leader int32) {
	c.mu.Lock()
	defer c.unlock()
	c.destGuarded = leader
}

// suspect sends a copy back to its start. What its lane has under way is decided
// first.
func (c *copier) suspect(generation uint64, err error) {
	c.mu.Lock()
	if c.generation == generation && c.state == Running {
		c.fault(err)
		if !c.inTxn {
			c.moveTo(c.committed, c.committedEpoch)
		}
	}
	c.unlock()
	c.changed()
}

// truncated takes note that the source has lost what was copied. Where the policy
// is to go on, it is at the copy's start that it is found out from where.
func (c *copier) truncated(generation uint64, err error) {
	c.mu.Lock()
	if c.generation == generation && c.state == Running {
		if c.a.Spec.Spec.Policies.OnTruncate == flow.TruncateRetract {
			c.lostSource = true
			err = fmt.Errorf("%w: %s", errSuspect, err.Error())
		}
		c.fault(err)
		if !c.inTxn {
			c.moveTo(c.committed, c.committedEpoch)
		}
	}
	c.unlock()
	c.changed()
}

// cutBack says that the source was found to have lost what was copied.
func (c *copier) cutBack() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.lostSource
}

// wasIntruded says that the destination appended where the copy had written.
func (c *copier) wasIntruded() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.intruded
}
