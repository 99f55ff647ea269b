package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/verify"
)

// due is when a flow's declaration wants its next verification; ok is false if it
// wants none, or one is running.
func due(f *flow.ReplicationFlow, last *cluster.Verification) (at time.Time, ok bool) {
	switch {
	case f.Spec.Verify == nil || last.Running():
		return time.Time{}, false
	case last == nil:
		return time.Time{}, true // at once
	}
	return last.Started.Add(f.Spec.Verify.Interval.Std()), true
}

// keep carries out the verifications of a flow for as long as its duty is this
// node's, and starts those that its declaration wants.
func (v *verifications) keep(ctx context.Context, a cluster.Assignment, f *flow.ReplicationFlow, changed <-chan struct{}) error {
	for ctx.Err() == nil {
		now := storedVerification(v.fleet.State(), a.Work.Name)
		if now.Running() {
			job := &verification{verifications: v, flow: f, epoch: a.Epoch, id: now.ID, begun: now.Begun}
			if err := job.carryOut(ctx, now, changed); err != nil && ctx.Err() == nil && job.wanted() {
				v.log.Warn("verification", "flow", a.Work.Name, "id", now.ID, "err", err)
				job.trouble(ctx, err)
				pause(ctx, dutyRetry)
			}
			continue
		}
		var timer <-chan time.Time
		if at, ok := due(f, now); ok {
			wait := time.Until(at)
			if wait <= 0 {
				req := verify.Request{From: f.Spec.Verify.From, BytesPerSecond: int64(f.Spec.Verify.BytesPerSecond)}
				if _, err := v.start(ctx, a.Work.Name, req, "", a.Epoch); err != nil && ctx.Err() == nil {
					v.log.Warn("verification cannot start", "flow", a.Work.Name, "err", err)
					pause(ctx, dutyRetry)
				}
				continue
			}
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		}
	}
	return nil
}

// storedVerification is the one that a state has of a flow, nil if it has none. States
// between which it has not changed have the same.
func storedVerification(s *cluster.State, name string) *cluster.Verification {
	if f := s.Flows[name]; f != nil {
		return f.Verification
	}
	return nil
}

// verification is one that this node carries out.
type verification struct {
	*verifications
	flow  *flow.ReplicationFlow
	epoch uint64 // of the flow's duty
	id    string
	begun bool
}

// carryOut goes on with a verification until it is done, is not wanted any more, or
// cannot go on for now.
func (j *verification) carryOut(ctx context.Context, stored *cluster.Verification, changed <-chan struct{}) error {
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		j.stopWhenUnwanted(ctx, stop, changed)
	}()
	defer func() {
		stop()
		<-watched
	}()
	var req verify.Request
	if err := json.Unmarshal(stored.Request, &req); err != nil {
		return fmt.Errorf("stored request: %w", err)
	}
	ends, err := j.open()
	if err != nil {
		return err
	}
	defer ends.close()
	before, err := storedProgress(stored)
	if err != nil {
		return err
	}
	if err := j.maps.CatchUp(ctx, ends.destinationID); err != nil {
		return err
	}
	copies := ends.copies(j.fleet.State().Flows[j.flow.Metadata.Name], req.Topics)
	if !j.begun {
		if before, err = j.begin(ctx, req, ends, copies, before); err != nil {
			return err
		}
	}
	copies, progress := match(copies, before, j.id)
	j.log.Info("verification is carried out by this node", "flow", j.flow.Metadata.Name, "id", j.id, "partitions", len(copies))
	run := verify.NewRun(verify.Config{
		Source: verify.KafkaCluster(ends.source), Destination: verify.KafkaCluster(ends.destination), SourceName: j.flow.Spec.Source, Entries: j.entries,
		BytesPerSecond: func() int64 { return req.BytesPerSecond },
		Save: func(ctx context.Context, changed []verify.Progress) error {
			return j.put(ctx, changed, nil, &cluster.PutVerification{})
		},
	})
	if _, err := run.Do(ctx, copies, progress); err != nil {
		return err
	}
	return j.put(ctx, nil, nil, &cluster.PutVerification{Ended: time.Now()})
}

// stopWhenUnwanted ends a verification that was stopped, or that another one
// replaces.
func (j *verification) stopWhenUnwanted(ctx context.Context, stop func(), changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if !j.wanted() {
			stop()
			return
		}
	}
}

// wanted says that nobody has stopped or replaced the verification.
func (j *verification) wanted() bool {
	now := storedVerification(j.fleet.State(), j.flow.Metadata.Name)
	return now.Running() && now.ID == j.id
}

// trouble has the fleet know why a verification does not go on.
func (j *verification) trouble(ctx context.Context, err error) {
	if now := storedVerification(j.fleet.State(), j.flow.Metadata.Name); now == nil || now.Problem == err.Error() {
		return
	}
	_ = j.put(ctx, nil, nil, &cluster.PutVerification{Problem: err.Error()}) // it may be over: then nobody needs to know
}

// putBytes bounds the progress in one command, well below raftnode.MaxCommand.
const putBytes = 128 << 10

// put has the fleet keep progress, in as many commands as it takes; what else end
// says comes with the last of them.
func (j *verification) put(ctx context.Context, changed []verify.Progress, remove []string, end *cluster.PutVerification) error {
	fresh := func() *cluster.PutVerification {
		return &cluster.PutVerification{Flow: j.flow.Metadata.Name, ID: j.id, Epoch: j.epoch, Copies: map[string]json.RawMessage{}}
	}
	c, size := fresh(), 0
	send := func() error {
		_, err := j.fleet.Propose(ctx, c)
		c, size = fresh(), 0
		return err
	}
	for i := range changed {
		data, err := json.Marshal(&changed[i])
		if err != nil {
			return fmt.Errorf("encode progress: %w", err)
		}
		c.Copies[changed[i].Copy] = data
		if size += len(data) + len(changed[i].Copy); size >= putBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	for _, key := range remove {
		c.Remove = append(c.Remove, key)
		if size += len(key); size >= putBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if end.Begun || !end.Ended.IsZero() || end.Problem != "" || size > 0 {
		c.Begun, c.Ended, c.Problem = end.Begun, end.Ended, end.Problem
		return send()
	}
	return nil
}

// begin has the fleet know of all copies that are to be compared, and from where.
func (j *verification) begin(ctx context.Context, req verify.Request, ends *ends, copies []verify.Copy, before []verify.Progress) ([]verify.Progress, error) {
	at, err := since(req.From)
	if err != nil {
		return nil, err
	}
	starts := map[flow.TopicPartition]int64{}
	if !at.IsZero() {
		if starts, err = ends.offsetsAt(ctx, copies, at); err != nil {
			return nil, err
		}
	}
	stale := map[string]bool{}
	for _, p := range before {
		stale[p.Copy] = true
	}
	for _, c := range ends.copies(j.fleet.State().Flows[j.flow.Metadata.Name], nil) {
		delete(stale, c.ID.Key().String())
	}
	all := beginnings(j.id, req.From, copies, before, starts, j.entries)
	err = j.put(ctx, all, sortedNames(stale), &cluster.PutVerification{Begun: true})
	return all, err
}

// beginnings are the progress with which the comparison of each copy begins. before is
// that of earlier ones, starts the source offsets that belong to a time.
func beginnings(id, from string, copies []verify.Copy, before []verify.Progress, starts map[flow.TopicPartition]int64, entries verify.Entries) []verify.Progress {
	earlier := map[string]verify.Progress{}
	if from == flow.VerifyFromVerified {
		for _, p := range before {
			earlier[p.Copy] = p
		}
	}
	var all []verify.Progress
	for _, c := range copies {
		if p, ok := earlier[c.ID.Key().String()]; ok {
			all = append(all, verify.Continue(id, c, p, entries))
			continue
		}
		at := starts[flow.TopicPartition{Topic: c.SourceTopic, Partition: c.ID.Source.Partition}]
		all = append(all, verify.Begin(id, c, at, entries))
	}
	return all
}

// match puts copies and their stored progress side by side. What is not a copy of
// the flow any more is left as it is: not all of it was compared.
func match(copies []verify.Copy, stored []verify.Progress, id string) (matched []verify.Copy, progress []verify.Progress) {
	known := map[string]verify.Copy{}
	for _, c := range copies {
		known[c.ID.Key().String()] = c
	}
	for _, p := range stored {
		if c, ok := known[p.Copy]; ok && p.Run == id {
			matched, progress = append(matched, c), append(progress, p)
		}
	}
	return matched, progress
}

// ends are the two clusters of a flow, with clients of their own: what they read has
// a client id, and so quotas, apart from that of the copies.
type ends struct {
	source, destination     *kgo.Client
	sourceID, destinationID string
}

func (j *verification) open() (*ends, error) {
	e := &ends{}
	state, clientID := j.fleet.State(), j.directory.clientID+"-verify"
	for _, end := range []struct {
		name string
		cl   **kgo.Client
		id   *string
	}{{j.flow.Spec.Source, &e.source, &e.sourceID}, {j.flow.Spec.Destination, &e.destination, &e.destinationID}} {
		o, err := state.Lookup(flow.KindCluster, end.name)
		if err == nil {
			*end.id, err = j.directory.id(end.name)
		}
		if err == nil {
			*end.cl, err = kafka.NewClient(o.Cluster, clientID)
		}
		if err != nil {
			e.close()
			return nil, err
		}
	}
	return e, nil
}

func (e *ends) close() {
	for _, cl := range []*kgo.Client{e.source, e.destination} {
		if cl != nil {
			cl.Close()
		}
	}
}

// copies are those of a flow that patterns pick, all if there are none.
func (e *ends) copies(work *cluster.Flow, patterns []string) (all []verify.Copy) {
	if work == nil {
		return nil
	}
	picked := flow.Selector{Include: patterns}
	for _, name := range sortedNames(work.Topics) {
		t := work.Topics[name].TopicSpec
		source, err1 := ledger.ParseTopicID(t.SourceID)
		destination, err2 := ledger.ParseTopicID(t.DestinationID)
		if errors.Join(err1, err2) != nil || len(patterns) > 0 && !picked.Match(name) {
			continue // it has no counterpart yet, so nothing of it was copied
		}
		for p := range t.Partitions {
			all = append(all, verify.Copy{
				ID: ledger.CopyID{
					Source:      ledger.End{Cluster: e.sourceID, TopicID: source, Partition: p},
					Destination: ledger.End{Cluster: e.destinationID, TopicID: destination, Partition: p},
				},
				SourceTopic: t.Source, DestinationTopic: t.Destination, Preserve: t.Offsets == "preserve",
			})
		}
	}
	return all
}

// offsetsAt are the source offsets of the first records at or after a time.
func (e *ends) offsetsAt(ctx context.Context, copies []verify.Copy, at time.Time) (map[flow.TopicPartition]int64, error) {
	var topics []string
	for _, c := range copies {
		if len(topics) == 0 || topics[len(topics)-1] != c.SourceTopic {
			topics = append(topics, c.SourceTopic)
		}
	}
	starts := map[flow.TopicPartition]int64{}
	if len(topics) == 0 {
		return starts, nil // asking for no topic would mean all
	}
	listed, err := kadm.NewClient(e.source).ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("source offsets at %s: %w", at.Format(time.RFC3339), err)
	}
	listed.Each(func(o kadm.ListedOffset) {
		starts[flow.TopicPartition{Topic: o.Topic, Partition: o.Partition}] = o.Offset
	})
	return starts, nil
}
