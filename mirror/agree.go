package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// start brings a copy that preserves offsets from nothing to running. What the
// mirror has is the truth about what was copied; the ledger is made to say the
// same, and the source may have lost what the mirror still has:
//
//  1. Writers of older epochs are fenced, so that the mirror's end is final.
//  2. The ledger is read to its end and told that this epoch begins. startAt says
//     where a copy without history begins.
//  3. What the source does not have any more is retracted, then cut.
//  4. What the ledger says beyond the mirror's end is retracted, what it does not
//     say below it is read from the mirror and told.
func (a *appender) start(ctx context.Context, c *copier, startAt func(context.Context) (leap, error)) error {
	m, err := a.fence(ctx, c)
	if err != nil {
		return err
	}
	id, key := c.copyIDs()
	at, err := a.Positions.Position(ctx, c.a.Destination.Metadata.Name, id)
	if err != nil {
		return fmt.Errorf("%w: read the ledger: %w", errUnresolved, err)
	}
	if err := ownedBy(at, &a.Config, c.a.Epoch); err != nil {
		return err
	}
	var over leap
	if !at.Exists {
		at.Next = 0
		if m.LogEnd == 0 {
			if over, err = startAt(ctx); err != nil {
				return err
			}
		}
	}
	now := c.hopTime(time.Now().UTC())
	if err := a.journal.write(ctx, id, beginOf(&a.Config, &c.a, id, at.Next, now)); err != nil {
		return err
	}
	r := reconciler{a: a, c: c, id: id, key: key, told: at.Next, at: now, mirror: m}
	if err := r.run(ctx); err != nil {
		return err
	}
	c.beginWhole(r.mirror.LogStart, r.mirror.LogEnd, r.mirror.LastEpoch, over)
	return nil
}

// fence makes this copy's writer epoch the highest of its mirror, with an append of
// nothing, and returns what the mirror has.
func (a *appender) fence(ctx context.Context, c *copier) (mirrorwire.AppendResponsePartition, error) {
	p := mirrorwire.NewAppendPartition()
	p.ExpectedEnd = 0
	var answer mirrorwire.AppendResponsePartition
	for range maxAgree {
		var err error
		answer, err = a.append(ctx, c, p)
		if err == nil {
			return answer, nil
		}
		if !errors.Is(err, errMirrorMoved) {
			return answer, err
		}
		// The epoch counts even so, and the answer tells the end.
		p.ExpectedEnd, p.ExpectedEpoch = answer.LogEnd, answer.LastEpoch
	}
	return answer, fmt.Errorf("%v: %w: it does not stand still", c.destination(), errMirrorMoved)
}

// maxAgree bounds how often a mirror is asked, or cut, until it is what was expected.
const maxAgree = 32

// append is one append outside of the appender's loop.
func (a *appender) append(ctx context.Context, c *copier, p mirrorwire.AppendRequestPartition) (mirrorwire.AppendResponsePartition, error) {
	p.Partition, p.WriterEpoch = c.a.Partition, int64(c.a.Epoch)
	id, _ := c.copyIDs()
	resp, err := a.controls.request(ctx, c.destination(), &mirrorwire.AppendRequest{
		TimeoutMillis: int32(ackTimeout.Milliseconds()),
		Topics: []mirrorwire.AppendRequestTopic{{
			TopicID: id.Destination.TopicID, Source: mirrorSource(id.Source), Partitions: []mirrorwire.AppendRequestPartition{p},
		}},
	}, mirrorwire.MaxVersion)
	if _, without := errors.AsType[*kafka.VersionError](err); without {
		return mirrorwire.AppendResponsePartition{}, fmt.Errorf("%w: %w", errNoMirrors, err)
	}
	if err != nil {
		return mirrorwire.AppendResponsePartition{}, err
	}
	topics := resp.(*mirrorwire.AppendResponse).Topics
	if len(topics) != 1 || len(topics[0].Partitions) != 1 || topics[0].Partitions[0].Partition != p.Partition {
		return mirrorwire.AppendResponsePartition{}, errors.New("MirrorAppend: the answer is not about what was asked")
	}
	got := topics[0].Partitions[0]
	return got, appendError(c, &got)
}

// reconciler makes a mirror what its source has, and the ledger what the mirror has.
type reconciler struct {
	a   *appender
	c   *copier
	id  ledger.CopyID
	key ledger.CopyKey

	told   int64 // the ledger tells where source offsets below it went
	at     time.Time
	mirror mirrorwire.AppendResponsePartition
}

func (r *reconciler) run(ctx context.Context) error {
	for range maxAgree {
		cut, err := r.divergence(ctx)
		if err != nil {
			return err
		}
		if cut >= r.mirror.LogEnd {
			if err := r.retract(ctx, cut); err != nil { // the mirror has lost what the ledger tells of
				return err
			}
			return r.tell(ctx)
		}
		if err := r.truncate(ctx, cut); err != nil {
			return err
		}
	}
	return fmt.Errorf("%v: %w: after %d cuts its mirror still differs", r.c.source(), errTruncated, maxAgree)
}

// divergence is where the mirror and the source part, at most the mirror's end
// (KIP-101, KIP-279).
func (r *reconciler) divergence(ctx context.Context) (int64, error) {
	m, c := &r.mirror, r.c
	if m.LastEpoch < 0 || m.LogEnd == m.LogStart {
		return m.LogEnd, nil // it holds nothing that could differ
	}
	epoch, end, err := epochEnd(ctx, kadm.NewClient(r.a.source.client), c.source(), m.LastEpoch)
	if err != nil {
		return 0, fmt.Errorf("source: %w", err)
	}
	switch {
	case epoch == m.LastEpoch:
		return min(end, m.LogEnd), nil
	case epoch < 0:
		return 0, fmt.Errorf("%v: %w: it does not know leader epoch %d, which its mirror has from it", c.source(), errForgotten, m.LastEpoch)
	}
	_, mine, err := epochEnd(ctx, kadm.NewClient(r.a.destination.client), c.destination(), epoch)
	if err != nil {
		return 0, fmt.Errorf("destination: %w", err)
	}
	if mine < 0 {
		mine = m.LogStart // it has nothing so old
	}
	return min(end, mine, m.LogEnd-1), nil
}

// epochEnd is the largest leader epoch of a log that is not above one, and where it
// ends; both -1 if that is not known.
func epochEnd(ctx context.Context, adm *kadm.Client, tp flow.TopicPartition, epoch int32) (int32, int64, error) {
	var req kadm.OffsetForLeaderEpochRequest
	req.Add(tp.Topic, tp.Partition, epoch)
	all, err := adm.OffsetForLeaderEpoch(ctx, req)
	if err == nil {
		got, ok := all[tp.Topic][tp.Partition]
		if ok && got.Err == nil {
			return got.LeaderEpoch, got.EndOffset, nil
		}
		err = orElse(got.Err, kerr.UnknownTopicOrPartition)
	}
	return -1, -1, fmt.Errorf("end of leader epoch %d of %v: %w", epoch, tp, err)
}

// truncate cuts the mirror. The ledger is told first: should this node die in
// between, it says less than the mirror has and never more.
func (r *reconciler) truncate(ctx context.Context, cut int64) error {
	if cut < r.mirror.LogStart {
		return fmt.Errorf("%v: %w: it agrees with its mirror up to %d, and the mirror begins at %d", r.c.source(), errForgotten, cut, r.mirror.LogStart)
	}
	r.a.log.Warn("the source has lost records: its mirror is cut", "source", r.c.source(), "destination", r.c.destination(), "from", cut, "upTo", r.mirror.LogEnd)
	if err := r.retract(ctx, cut); err != nil {
		return err
	}
	p := mirrorwire.NewAppendPartition()
	p.ExpectedEnd, p.ExpectedEpoch, p.TruncateTo = r.mirror.LogEnd, r.mirror.LastEpoch, cut
	m, err := r.a.append(ctx, r.c, p)
	if err != nil {
		return err
	}
	r.mirror = m
	r.a.metrics.Truncations.Add(1)
	// A batch that has records on both sides of the cut goes as a whole.
	return r.retract(ctx, m.LogEnd)
}

// retract makes the ledger tell nothing of what lies at and above an offset.
func (r *reconciler) retract(ctx context.Context, offset int64) error {
	if r.told <= offset {
		return nil
	}
	err := r.a.journal.write(ctx, r.id, &ledger.Retraction{Copy: r.key, Epoch: r.c.a.Epoch, Source: offset, Destination: offset, At: r.at})
	if err == nil {
		r.told = offset
	}
	return err
}

// tell reads what lies between the last hop and the mirror's end, from the mirror,
// and tells the ledger of it.
func (r *reconciler) tell(ctx context.Context) error {
	m := &r.mirror
	over := leap{m.LogStart, ledger.Expired}
	for r.told < m.LogEnd {
		var chunks []chunk
		if from := max(r.told, m.LogStart); from < m.LogEnd {
			batches, err := r.a.controls.read(ctx, r.c.destination(), r.id.Destination.TopicID, from)
			if err != nil {
				return fmt.Errorf("read the mirror: %w", err)
			}
			got := fetched{position: r.told, records: batches}
			chunks, _, err = stageWhole(got, math.MaxInt64, over, limits{origin: r.c.origin})
			if again, err := r.resolve(ctx, chunks, err); again {
				continue
			} else if err != nil {
				return fmt.Errorf("read the mirror: %w", err)
			}
		}
		if len(chunks) == 0 { // there is nothing, up to the end
			rest := newWhole(r.told)
			rest.leapTo(min(over.to, m.LogEnd), ledger.Expired)
			rest.gap(m.LogEnd, ledger.Compacted)
			chunks = []chunk{rest}
		}
		if err := r.hop(ctx, chunks); err != nil {
			return err
		}
	}
	return nil
}

// resolve sees to what keeps the mirror's batches from being told; again says that
// they are to be read again.
func (r *reconciler) resolve(ctx context.Context, chunks []chunk, err error) (again bool, _ error) {
	if len(chunks) > 0 {
		return false, nil // those first
	}
	if within, ok := errors.AsType[*BatchError](err); ok && within.Offset < r.told {
		// A cut that was retracted and never made: the batch stays a whole.
		return true, r.retract(ctx, within.Offset)
	}
	open, ok := errors.AsType[*openQuestion](err)
	if !ok {
		return false, err
	}
	if err := r.a.source.readLedger(ctx, r.a.Origins); err != nil {
		return false, err
	}
	r.c.origin.learn(open.question)
	if _, known := r.c.origin.rule(open.question); !known {
		return false, r.c.origin.why(open.question)
	}
	return true, nil
}

// hop tells the ledger of chunks that the mirror has.
func (r *reconciler) hop(ctx context.Context, chunks []chunk) error {
	all := make([]placed, len(chunks))
	for i, k := range chunks {
		k.size = len(k.batch)
		all[i] = placed{chunk: k, base: k.from}
	}
	last := &all[len(all)-1]
	proto := ledger.Hop{Copy: r.key, Epoch: r.c.a.Epoch, At: r.at, DestinationLeaderEpoch: last.leaderEpoch}
	var entries []ledger.Entry
	for _, h := range hopsOf(proto, all) {
		entries = append(entries, h)
	}
	if err := r.a.journal.write(ctx, r.id, entries...); err != nil {
		return err
	}
	r.a.metrics.Recovered.Add(last.next - r.told)
	r.told = last.next
	return nil
}

// controls are connections for requests outside of the appender's loop, one to each
// broker of the destination. They are safe for concurrent use.
type controls struct {
	destination *peer
	clientID    string

	mu    sync.Mutex
	conns map[int32]*kafka.Conn
}

func (k *controls) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.conns {
		_ = conn.Close()
	}
	k.conns = nil
}

// request asks the leader of a partition.
func (k *controls) request(ctx context.Context, tp flow.TopicPartition, req kmsg.Request, limit int16) (kmsg.Response, error) {
	v := k.destination.view()
	broker, _, err := v.leader(tp.Topic, tp.Partition)
	if err != nil {
		k.destination.wantRefresh()
		return nil, err
	}
	conn, err := k.conn(ctx, broker, v.brokers[broker])
	if err != nil {
		k.destination.wantRefresh()
		return nil, fmt.Errorf("destination broker %d: %w", broker, err)
	}
	return conn.Request(ctx, req, limit)
}

func (k *controls) conn(ctx context.Context, broker int32, addr string) (*kafka.Conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if conn := k.conns[broker]; conn != nil {
		if conn.Usable() {
			return conn, nil
		}
		_ = conn.Close()
		delete(k.conns, broker)
	}
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := kafka.Dial(bounded, k.destination.cluster, addr, k.clientID)
	if err != nil {
		return nil, err
	}
	if k.conns == nil {
		k.conns = map[int32]*kafka.Conn{}
	}
	k.conns[broker] = conn
	return conn, nil
}

// read fetches what a partition has from an offset on, whatever became of it.
func (k *controls) read(ctx context.Context, tp flow.TopicPartition, id ledger.TopicID, from int64) ([]byte, error) {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxBytes, req.IsolationLevel = -1, fetchBytes, 0
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = tp.Topic, id
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch = tp.Partition, from, fetchBytes, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := k.request(ctx, tp, req, fetchByID)
	if err != nil {
		return nil, err
	}
	answer := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %v: %w", tp, err)
	}
	if len(answer.Topics) != 1 || len(answer.Topics[0].Partitions) != 1 {
		return nil, fmt.Errorf("fetch %v: the answer is not about what was asked", tp)
	}
	got := answer.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, fmt.Errorf("fetch %v: %w", tp, err)
	}
	return got.RecordBatches, nil
}
