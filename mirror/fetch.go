package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

const (
	// fetchByID asks for topics by id (KIP-516): one that was created anew since
	// the metadata was read is then not read in place of the old one. fetchByName
	// is the newest version for sources without topic ids.
	fetchByID   = 13
	fetchByName = 12

	// fetchBytes bounds a response, except for a single larger batch.
	fetchBytes = 8 << 20
	// A partition's share of a fetch. Around 256 KiB a batch is still in the
	// processor's cache when it is written; a lone partition gets more, so that a
	// round trip moves enough.
	minPartitionBytes = 256 << 10
	maxPartitionBytes = 2 << 20

	// fetchWait is how long an idle source holds a fetch open. It is also what a
	// copy that joins waits at most before it is fetched. A fetch of many copies
	// waits longer, up to maxFetchWait: looking through ten thousand takes some
	// milliseconds, and naming them to a source that keeps no session ten.
	fetchWait    = 250 * time.Millisecond
	maxFetchWait = time.Second
	// crowdedWait is that time while some copies are left out because their queue
	// is full: they will have room soon.
	crowdedWait = 10 * time.Millisecond
)

// reading is what a fetcher reads: isolation is a request's, not a partition's.
type reading struct {
	broker int32
	// uncommitted: up to the high watermark, for copies that preserve offsets;
	// otherwise what is committed.
	uncommitted bool
}

// fetcher reads from one broker of the source for all copies that it leads and that
// read alike: one fetch at a time, the next one as soon as the last is staged, while the lanes
// still write what it brought.
type fetcher struct {
	reading
	source   *peer
	clientID string
	budget   *budget
	pace     *pace
	inquirer *inquirer
	metrics  *Metrics
	log      *slog.Logger
	copiers  func() []*copier // those to read for, a snapshot
	wake     chan struct{}    // there may be more to fetch
	wait     backoff          // after a fault

	conn    *kafka.Conn
	session fetchSession // of conn's broker
	first   int          // rotates the order of partitions, so that each is first in turn
	list    []wanted     // memory of the last plan
}

func (f *fetcher) run(ctx context.Context) error {
	defer f.close()
	wait := f.wait
	for ctx.Err() == nil {
		err := f.once(ctx)
		if err == nil {
			wait.n = 0
			continue
		}
		if ctx.Err() != nil {
			break
		}
		f.log.Warn("fetch from source broker", "broker", f.broker, "err", err)
		f.close()
		f.source.wantRefresh()
		for _, c := range f.copiers() {
			c.sourceTrouble(err)
		}
		if wait.sleep(ctx) != nil {
			break
		}
	}
	return nil
}

func (f *fetcher) close() {
	if f.conn != nil {
		_ = f.conn.Close()
		f.conn = nil
		f.session.forget()
	}
}

// once fetches what there is room for.
func (f *fetcher) once(ctx context.Context) error {
	if err := f.budget.wait(ctx); err != nil {
		return err
	}
	if err := f.pace.wait(ctx); err != nil {
		return err
	}
	list, crowded := f.plan()
	if len(list) == 0 {
		wait := fetchWait
		if crowded {
			wait = crowdedWait
		}
		select {
		case <-f.wake:
		case <-time.After(wait):
		case <-ctx.Done():
		}
		return nil
	}
	if err := f.connect(ctx); err != nil {
		return err
	}
	list, err := f.checkHistory(ctx, list)
	if err != nil || len(list) == 0 {
		return err
	}
	req, version := f.request(list, crowded)
	call := f.conn.Send(ctx, req, version)
	answer, err := call.Wait(ctx)
	if err != nil {
		return err
	}
	lent := call.Memory()
	f.pace.spend(call.Size())
	fr := f.budget.newFrame(int64(len(lent)), lent)
	defer fr.release()
	resp := answer.(*kmsg.FetchResponse)
	if lost, err := f.session.answered(resp); lost {
		return nil // such as after a restart of the broker: ask anew
	} else if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	f.metrics.Fetches.Add(1)
	now := time.Now()
	for _, w := range list {
		w.c.answered(now)
	}
	f.deliver(ctx, resp, fr)
	return nil
}

func (f *fetcher) connect(ctx context.Context) (err error) {
	if f.conn != nil && f.conn.Usable() {
		return nil
	}
	f.close()
	addr, ok := f.source.view().brokers[f.broker]
	if !ok {
		return fmt.Errorf("source broker %d: %w", f.broker, kerr.BrokerNotAvailable)
	}
	if f.conn, err = kafka.Dial(ctx, f.source.cluster, addr, f.clientID); err != nil {
		return err
	}
	f.conn.ReadInto(f.budget.memory.get)
	return nil
}

// plan is what to fetch: of every copy that has room, each being the first in turn.
// The list is valid until the next one is made.
func (f *fetcher) plan() (list []wanted, crowded bool) {
	v := f.source.view()
	all := f.copiers()
	list = f.list[:0]
	for i := range all {
		c := all[(f.first+i)%len(all)]
		w, full, ok := c.want()
		crowded = crowded || full
		if !ok {
			continue
		}
		leader, epoch, err := v.leader(c.a.SourceTopic, c.a.Partition)
		if err != nil || leader != f.broker {
			continue
		}
		w.leaderEpoch = epoch
		list = append(list, w)
	}
	f.first++
	clear(list[len(list):cap(list)]) // copies that have left are not held on to
	f.list = list
	return list, crowded
}

// request asks for all of list, naming what the broker's session does not have,
// at a version that is at least as new as the broker answers.
func (f *fetcher) request(list []wanted, crowded bool) (req *kmsg.FetchRequest, version int16) {
	req = kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1 // a consumer
	allowed := f.pace.allowance()
	req.MinBytes, req.MaxBytes = 1, int32(allowed)
	if !f.uncommitted {
		req.IsolationLevel = 1 // read_committed
	}
	idle := min(max(fetchWait, time.Duration(len(list))*100*time.Microsecond), maxFetchWait)
	if crowded {
		idle = crowdedWait
	}
	req.MaxWaitMillis = int32(idle.Milliseconds())
	version = fetchByID
	for _, w := range list {
		if w.topicID == (ledger.TopicID{}) {
			version = fetchByName
		}
	}
	share := int32(min(max(fetchBytes/int64(len(list)), minPartitionBytes), maxPartitionBytes, allowed))
	changed, dropped := f.session.update(list, version, share)
	req.SessionID, req.SessionEpoch = f.session.id, f.session.epoch
	for _, w := range changed {
		tp := w.c.source()
		// Neighbours of one topic share an entry; the order of partitions stays.
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != tp.Topic || req.Topics[n-1].TopicID != w.topicID {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = tp.Topic, w.topicID
			req.Topics = append(req.Topics, t)
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = tp.Partition, w.offset, share
		p.CurrentLeaderEpoch = w.leaderEpoch
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, p)
	}
	for _, at := range dropped {
		t := kmsg.NewFetchRequestForgottenTopic()
		t.Topic, t.TopicID, t.Partitions = at.topic, at.id, []int32{at.partition}
		req.ForgottenTopics = append(req.ForgottenTopics, t)
	}
	return req, version
}

// deliver stages what came for each partition and queues it with its copier. fr is
// the memory of the response.
func (f *fetcher) deliver(ctx context.Context, resp *kmsg.FetchResponse, fr *frame) {
	now := time.Now()
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			at := place{topic: t.Topic, id: t.TopicID, partition: p.Partition}
			w, ok := f.session.wanted(at)
			if !ok {
				continue // a partition that was not asked for
			}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				f.fault(ctx, w, err)
				continue
			}
			w.c.watermarks(p.LogStartOffset, p.HighWatermark, p.LastStableOffset, now)
			f.session.note(at, watermarks{p.LogStartOffset, p.HighWatermark, p.LastStableOffset})
			if f.uncommitted {
				f.deliverWhole(&w, p, fr)
				continue
			}
			got := fetched{position: w.offset, records: p.RecordBatches}
			for _, a := range p.AbortedTransactions {
				got.aborted = append(got.aborted, abortedTxn{a.ProducerID, a.FirstOffset})
			}
			chunks, next, err := stage(got, w.limits)
			w.c.push(w.generation, chunks, next, fr)
			if open, ok := errors.AsType[*openQuestion](err); ok {
				f.inquirer.ask(w.c, w.generation, open.question)
			} else if err != nil {
				w.c.fail(w.generation, err)
			}
		}
	}
}

// deliverWhole queues what came for a copy that preserves offsets.
func (f *fetcher) deliverWhole(w *wanted, p *kmsg.FetchResponseTopicPartition, fr *frame) {
	got := fetched{position: w.from, records: p.RecordBatches}
	chunks, next, err := stageWhole(got, p.LastStableOffset, w.over, w.limits)
	if len(chunks) == 0 && err == nil && w.offset > w.from && p.HighWatermark == w.offset {
		chunks, next = []chunk{leapChunk(w.from, w.over)}, w.offset
	}
	w.c.push(w.generation, chunks, next, fr)
	open, ok := errors.AsType[*openQuestion](err)
	switch {
	case ok && w.limits.origin.undecided(open.question):
		w.c.waitForTransaction(w.generation)
	case ok:
		f.inquirer.ask(w.c, w.generation, open.question)
	case err != nil:
		w.c.fail(w.generation, err)
	}
}

func (f *fetcher) fault(ctx context.Context, w wanted, err error) {
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange):
		if err := f.outOfRange(ctx, w); err != nil {
			w.c.fail(w.generation, err)
		}
	case errors.Is(err, kerr.NotLeaderForPartition), errors.Is(err, kerr.FencedLeaderEpoch), errors.Is(err, kerr.UnknownLeaderEpoch),
		errors.Is(err, kerr.LeaderNotAvailable), errors.Is(err, kerr.OffsetNotAvailable),
		errors.Is(err, kerr.ReplicaNotAvailable), errors.Is(err, kerr.KafkaStorageError),
		errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		// The leader moves, or the topic is not what it was: the metadata tells.
		f.source.wantRefresh()
		w.c.sourceTrouble(err)
	default:
		f.source.wantRefresh()
		w.c.fail(w.generation, fmt.Errorf("fetch %v at offset %d: %w", w.c.source(), w.offset, err))
	}
}

// outOfRange finds out on which side of the log a position lies. Below its start
// the missing stretch is declared and the copy goes on; above its end the source
// has lost what was copied, and the copy stops.
func (f *fetcher) outOfRange(ctx context.Context, w wanted) error {
	start, err := listOffset(ctx, f.conn, w.c.source(), earliestTimestamp)
	if err != nil {
		return err
	}
	if w.offset < start {
		if w.c.stopsAtGap(w.offset) {
			return fmt.Errorf("%v: %w: offsets %d to %d", w.c.source(), errGap, w.offset, start-1)
		}
		if f.uncommitted {
			w.c.leapOver(w.generation, leap{start, ledger.Expired})
		} else {
			w.c.push(w.generation, []chunk{gapChunk(w.offset, start, ledger.Expired, -1)}, start, nil)
		}
		return nil
	}
	end, err := listOffset(ctx, f.conn, w.c.source(), latestTimestamp)
	if err != nil {
		return err
	}
	if w.offset > end {
		return fmt.Errorf("%v: %w: it ends at %d, the copy is at %d", w.c.source(), errTruncated, end, w.offset)
	}
	return nil // the log has moved in between
}

// checkHistory asks a new leader, before the first fetch from it, whether its log
// still has what was fetched last (KIP-320): where the log of the epoch that
// appended it ends. It leaves out of list what cannot be fetched.
func (f *fetcher) checkHistory(ctx context.Context, list []wanted) ([]wanted, error) {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	asked := map[flow.TopicPartition]wanted{}
	for _, w := range list {
		if w.checked == w.leaderEpoch {
			continue
		}
		if w.epoch < 0 || w.epoch == w.leaderEpoch {
			w.c.confirm(w.generation, w.leaderEpoch)
			continue
		}
		tp := w.c.source()
		asked[tp] = w
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic = tp.Topic
		p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = tp.Partition, w.leaderEpoch, w.epoch
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
	}
	if len(asked) == 0 {
		return list, nil
	}
	answer, err := f.conn.Request(ctx, req, 4)
	if err != nil {
		return nil, err
	}
	for _, t := range answer.(*kmsg.OffsetForLeaderEpochResponse).Topics {
		for _, p := range t.Partitions {
			w, ok := asked[flow.TopicPartition{Topic: t.Topic, Partition: p.Partition}]
			if !ok {
				continue
			}
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err != nil:
				f.fault(ctx, w, err)
			case p.EndOffset >= 0 && p.EndOffset < w.offset, f.uncommitted && p.LeaderEpoch != w.epoch:
				w.c.fail(w.generation, fmt.Errorf("%v: %w: leader epoch %d ends at %d now, the copy is at %d",
					w.c.source(), errTruncated, w.epoch, p.EndOffset, w.offset))
			default:
				w.c.confirm(w.generation, w.leaderEpoch)
				delete(asked, w.c.source())
			}
		}
	}
	return slices.DeleteFunc(list, func(w wanted) bool { _, open := asked[w.c.source()]; return open }), nil
}

const (
	latestTimestamp   = -1
	earliestTimestamp = -2
)

// listOffset asks a leader where a log starts or, up to the high watermark, ends.
func listOffset(ctx context.Context, conn *kafka.Conn, tp flow.TopicPartition, timestamp int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = tp.Topic
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = tp.Partition, timestamp
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	answer, err := conn.Request(ctx, req, 5)
	if err != nil {
		return 0, err
	}
	resp := answer.(*kmsg.ListOffsetsResponse)
	if len(resp.Topics) == 1 && len(resp.Topics[0].Partitions) == 1 {
		p := resp.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return 0, fmt.Errorf("list offsets of %v: %w", tp, err)
		}
		return p.Offset, nil
	}
	return 0, fmt.Errorf("list offsets of %v: %w", tp, kerr.UnknownServerError)
}
