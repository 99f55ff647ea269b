package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// leastFetch is asked for where nothing came the last time.
	leastFetch = 64 << 10
	// A partition's share of a fetch. Around 256 KiB a batch is still in the
	// processor's cache when it is written; a lone partition gets more, so that a
	// round trip moves enough.
	minPartitionBytes = 256 << 10
	maxPartitionBytes = 2 << 20

	// fetchWait is how long an idle source holds a fetch open. It is also what a
	// copy that joins waits at most before it is fetched. A fetch of many copies
	// waits longer, up to maxFetchWait: a source looks through all of them, some
	// milliseconds for ten thousand, and where it keeps no session reads their names.
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
	wait     backoff // after a fault
	wishes   *wishes // the copies to read for put themselves there
	next     int64   // how much the next fetch asks for

	conn    *kafka.Conn
	session fetchSession // of conn's broker

	view    *view // of the source, under which members were looked at
	members map[*copier]appetite
	resting map[*copier]time.Time // until when
	crowded int                   // members that are
	toCheck []wanted              // before they may be fetched from a new leader
	list    []*copier             // memory of the last list of wishes
}

func newFetcher(f *flowRun, at reading) *fetcher {
	return &fetcher{
		reading: at, source: f.source, clientID: f.cfg.ClientID, budget: f.budget, next: leastFetch, pace: f.pace, inquirer: f.inquirer, metrics: f.metrics, log: f.log,
		wait: f.cfg.bounded(backoff{min: 50 * time.Millisecond, max: 5 * time.Second}), wishes: newWishes(), members: map[*copier]appetite{}, resting: map[*copier]time.Time{},
	}
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
		f.next = leastFetch // one that does not answer keeps no memory
		f.source.wantRefresh()
		f.toCheck = nil
		for c := range f.members { // each of which is looked at again after that
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
	if err := f.pace.wait(ctx); err != nil {
		return err
	}
	now := time.Now()
	f.plan(now)
	if f.session.empty() && len(f.toCheck) == 0 {
		f.rest(ctx, now)
		return nil
	}
	if err := f.connect(ctx); err != nil {
		return err
	}
	if err := f.checkHistory(ctx, now); err != nil || f.session.empty() {
		return err
	}
	fr, err := f.budget.reserve(ctx, min(f.next, f.pace.allowance()))
	if err != nil {
		return err
	}
	defer fr.release()
	now = time.Now()
	if f.plan(now); f.session.empty() { // who was fetched for may have left meanwhile
		return nil
	}
	call := f.conn.Send(ctx, f.request(now, fr.asks()), f.session.version)
	answer, err := call.Wait(ctx)
	if err != nil {
		return err
	}
	fr.fill(call.Memory())
	f.pace.spend(call.Size())
	resp := answer.(*kmsg.FetchResponse)
	f.next = nextFetch(f.next, recordBytes(resp))
	f.source.throttle.note(resp.ThrottleMillis)
	if lost, err := f.session.answered(resp); lost {
		return nil // such as after a restart of the broker: ask anew
	} else if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	f.metrics.Fetches.Add(1)
	now = time.Now()
	f.wishes.answered.Store(&now)
	f.deliver(ctx, resp, fr, now)
	return nil
}

// rest waits until there may be something to fetch.
func (f *fetcher) rest(ctx context.Context, now time.Time) {
	var due <-chan time.Time
	if until, ok := f.nextDue(); ok {
		timer := time.NewTimer(until.Sub(now))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-f.wishes.wake:
	case <-due:
	case <-ctx.Done():
	}
}

// nextDue is when the first of the copies that rest has rested.
func (f *fetcher) nextDue() (first time.Time, ok bool) {
	for _, until := range f.resting {
		if !ok || until.Before(first) {
			first, ok = until, true
		}
	}
	return first, ok
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
	f.conn.ReadInto(f.budget.of.memory.get)
	return nil
}

// plan brings the session up to what is wanted now. It looks at copies whose wish has
// changed, or that have rested, and at all of them when the source's leaders may be others.
func (f *fetcher) plan(now time.Time) {
	list := f.wishes.take(f.list)
	for c, until := range f.resting {
		if !now.Before(until) {
			list = append(list, c)
		}
	}
	if v := f.source.view(); v != f.view {
		f.view = v
		for c := range f.members {
			list = append(list, c)
		}
	}
	for _, c := range list {
		f.consider(c, now)
	}
	clear(list) // copies that have left are not held on to
	f.list = list
}

// consider finds out what one copy wants.
func (f *fetcher) consider(c *copier, now time.Time) {
	w, is, from := c.want(f.wishes, now)
	if f.members[c] == crowded {
		f.crowded--
	}
	delete(f.resting, c)
	switch f.members[c] = is; is {
	case leaves:
		delete(f.members, c)
	case crowded:
		f.crowded++
	case rests:
		f.resting[c] = from
	case wants:
		if leader, epoch, err := f.view.leader(c.a.SourceTopic, c.a.Partition); err == nil && leader == f.broker {
			if w.leaderEpoch = epoch; w.checked != epoch {
				f.toCheck = append(f.toCheck, w)
				break
			}
			f.fetch(w, now)
			return
		}
	}
	if f.session.drop(c) {
		c.fetching(f.wishes, false, now)
	}
}

// fetch makes what is wanted part of the next fetches.
func (f *fetcher) fetch(w wanted, now time.Time) {
	if f.session.set(w) {
		w.c.fetching(f.wishes, true, now)
	} else if w.troubled {
		f.session.retell(w.c, now)
	}
}

// partitionShare is how much of a fetch each of n partitions gets. It has few values,
// since a session is told of each change for all its partitions.
func partitionShare(n int) int32 {
	share := int32(maxPartitionBytes)
	for share > minPartitionBytes && int64(share)*int64(n) > fetchBytes {
		share /= 2
	}
	return share
}

// nextFetch is how much to ask for after an answer of some bytes to the last one: a few
// round trips lead from rest to full speed, and a few from there to little memory reserved
// for fetches that wait at idle sources.
func nextFetch(last, answer int64) int64 {
	return min(max(4*answer, last/2, leastFetch), fetchBytes)
}

func recordBytes(resp *kmsg.FetchResponse) (n int64) {
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			n += int64(len(resp.Topics[i].Partitions[j].RecordBatches))
		}
	}
	return n
}

// request asks for all that is wanted, as far as there is room for it, naming what the
// broker's session does not have.
func (f *fetcher) request(now time.Time, room int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1 // a consumer
	allowed := f.pace.allowance()
	req.MinBytes, req.MaxBytes = 1, int32(min(allowed, int64(room)))
	if !f.uncommitted {
		req.IsolationLevel = 1 // read_committed
	}
	n := len(f.session.of)
	wait := min(max(fetchWait, time.Duration(n)*100*time.Microsecond), maxFetchWait)
	if due, ok := f.nextDue(); ok {
		wait = min(wait, max(due.Sub(now), crowdedWait))
	}
	if f.crowded > 0 {
		wait = crowdedWait
	}
	req.MaxWaitMillis = int32(wait.Milliseconds())
	share := int32(min(int64(partitionShare(n)), allowed))
	changed, dropped := f.session.update(share)
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
	return req
}

// deliver stages what came for each partition and queues it with its copier. fr is
// the memory of the response.
func (f *fetcher) deliver(ctx context.Context, resp *kmsg.FetchResponse, fr *frame, now time.Time) {
	for _, t := range resp.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			at := place{topic: t.Topic, id: t.TopicID, partition: p.Partition}
			w := f.session.at(at)
			if w == nil {
				continue // a partition that was not asked for
			}
			w.limits.now = now.UnixMilli()
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				w.marks = nil // the broker tells again when it is well
				f.fault(ctx, &w.wanted, err)
				continue
			}
			w.c.watermarks(p.LogStartOffset, p.HighWatermark, p.LastStableOffset, now)
			w.marks = &watermarks{p.LogStartOffset, p.HighWatermark, p.LastStableOffset}
			if f.uncommitted {
				f.deliverWhole(&w.wanted, p, fr)
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

func (f *fetcher) fault(ctx context.Context, w *wanted, err error) {
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
// has lost what was copied, and the copy stops. Within it is asked again after a while.
func (f *fetcher) outOfRange(ctx context.Context, w *wanted) error {
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
	w.c.contradicted(fmt.Errorf("%v: it refuses offset %d, and says that its log has offsets %d to %d: %w", w.c.source(), w.offset, start, end, kerr.OffsetOutOfRange))
	return nil
}

// checkHistory asks a new leader, before the first fetch from it, whether its log
// still has what was fetched last (KIP-320): where the log of the epoch that
// appended it ends. What has been checked is fetched.
func (f *fetcher) checkHistory(ctx context.Context, now time.Time) error {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	asked := map[flow.TopicPartition]*wanted{}
	list := f.toCheck
	f.toCheck = nil
	for i := range list {
		w := &list[i]
		if w.epoch < 0 || w.epoch == w.leaderEpoch {
			f.confirmed(w, now)
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
		return nil
	}
	answer, err := f.conn.Request(ctx, req, 4)
	if err != nil {
		return err
	}
	for _, t := range answer.(*kmsg.OffsetForLeaderEpochResponse).Topics {
		for _, p := range t.Partitions {
			w, ok := asked[flow.TopicPartition{Topic: t.Topic, Partition: p.Partition}]
			if !ok {
				continue
			}
			delete(asked, w.c.source())
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err != nil:
				f.fault(ctx, w, err)
				f.wishes.add(w.c) // to be asked about again, when it still wants to be fetched
			case p.EndOffset >= 0 && p.EndOffset < w.offset, f.uncommitted && p.LeaderEpoch != w.epoch:
				w.c.fail(w.generation, fmt.Errorf("%v: %w: leader epoch %d ends at %d now, the copy is at %d",
					w.c.source(), errTruncated, w.epoch, p.EndOffset, w.offset))
			default:
				f.confirmed(w, now)
			}
		}
	}
	for _, w := range asked {
		w.c.sourceTrouble(fmt.Errorf("%v: no answer to where leader epoch %d ends", w.c.source(), w.epoch))
	}
	return nil
}

func (f *fetcher) confirmed(w *wanted, now time.Time) {
	w.c.confirm(w.generation, w.leaderEpoch)
	w.checked = w.leaderEpoch
	f.fetch(*w, now)
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
