package mirrormaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
)

// Config is what a Writer needs.
type Config struct {
	flow.MirrorMaker2 // how the topics are named, and where pairs of offsets are written
	// Source and Destination stay the caller's.
	Source, Destination *kgo.Client
	// Dial makes a client of the source that reads the heartbeats there. It is nil if
	// they are copied as a topic of the flow.
	Dial func(...kgo.Opt) (*kgo.Client, error)
	// Checkpoints and Syncs are what is known now. An element that has no place in the
	// layout is left out, and reported.
	Checkpoints func() []Checkpoint
	Syncs       func() []OffsetSync
	Log         *slog.Logger
}

// Writer writes the topics of one flow.
type Writer struct {
	cfg     Config
	written map[string]string // value by topic and key, as acknowledged
	ids     map[topicAt]kadm.TopicID
	ready   bool      // all topics were there once
	lookAt  time.Time // when to look for them again
	moved   bool      // the source's heartbeats are in another topic than is relayed
	err     atomic.Pointer[string]
}

// topicAt is a topic in one of the two clusters.
type topicAt struct {
	cl   *kgo.Client
	name string
}

// NewWriter returns a Writer.
func NewWriter(cfg Config) *Writer {
	return &Writer{cfg: cfg, written: map[string]string{}, ids: map[topicAt]kadm.TopicID{}}
}

// every is between two looks, and between heartbeats; topicsEvery is between two looks
// whether the topics are still there.
const (
	every       = time.Second
	topicsEvery = 5 * time.Second
)

// syncs is where pairs of offsets are written: nil is nowhere.
func (c *Config) syncs() (cl *kgo.Client, topic string) {
	switch c.OffsetSyncs {
	case flow.OffsetSyncsSource:
		return c.Source, c.OffsetSyncsTopic()
	case flow.OffsetSyncsDestination:
		return c.Destination, c.OffsetSyncsTopic()
	}
	return nil, ""
}

// Err is why the last look did not write everything, "" if it did.
func (w *Writer) Err() string {
	if e := w.err.Load(); e != nil {
		return *e
	}
	return ""
}

// Run writes until ctx ends, and returns nil then. What fails shows in Err and is
// tried again.
func (w *Writer) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var stop func() // the relay, once there is something to read
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		err := w.prepare(ctx)
		if w.ready {
			if w.moved && stop != nil {
				stop()
				stop = nil
			}
			w.moved = false
			if stop == nil && w.cfg.Dial != nil {
				stop = w.relay(ctx)
			}
			err = errors.Join(err, w.look(ctx))
		}
		if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
			w.lookAt = time.Time{}
		}
		if ctx.Err() != nil {
			return nil
		}
		w.report(err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (w *Writer) report(err error) {
	text := ""
	if err != nil {
		text = "topics of MirrorMaker 2: " + err.Error()
		if text != w.Err() {
			w.cfg.Log.Warn("topics of MirrorMaker 2 are not written", "err", err)
		}
	}
	w.err.Store(&text)
}

// prepare makes the topics that are not there: at the start, and when somebody has
// deleted one since. What a topic had is written anew into the one that came after it.
func (w *Writer) prepare(ctx context.Context) error {
	if time.Now().Before(w.lookAt) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := &w.cfg
	source, destination := c.Topics()
	want := map[*kgo.Client][]string{c.Source: source, c.Destination: destination}
	var errs []error
	for cl, names := range want {
		listed, err := kadm.NewClient(cl).ListTopics(ctx, names...)
		if err != nil {
			errs = append(errs, fmt.Errorf("look for topics %s: %w", strings.Join(names, ", "), err))
			continue
		}
		for _, name := range names {
			id, err := listed[name].ID, listed[name].Err
			if errors.Is(err, kerr.UnknownTopicOrPartition) {
				id, err = create(ctx, cl, name)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("topic %s: %w", name, err))
				continue
			}
			w.found(topicAt{cl, name}, id)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	w.ready, w.lookAt = true, time.Now().Add(topicsEvery)
	return nil
}

// found notes which topic it is, and has what was written to another of that name be
// written again.
func (w *Writer) found(at topicAt, id kadm.TopicID) {
	if was, known := w.ids[at]; known && was != id {
		w.cfg.Log.Warn("a topic of MirrorMaker 2 was deleted; it is written anew", "topic", at.name)
		maps.DeleteFunc(w.written, func(place, _ string) bool { return strings.HasPrefix(place, at.name+"\x00") })
		w.moved = w.moved || at == topicAt{w.cfg.Source, flow.Heartbeats}
	}
	w.ids[at] = id
}

// create makes a topic of one partition that is compacted, as MirrorMaker does.
func create(ctx context.Context, cl *kgo.Client, topic string) (kadm.TopicID, error) {
	compact := "compact"
	made, err := kadm.NewClient(cl).CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &compact}, topic)
	if err != nil {
		return kadm.TopicID{}, fmt.Errorf("create: %w", err)
	}
	return made.ID, nil
}

// look writes heartbeats, and what has changed since it was written.
func (w *Writer) look(ctx context.Context) error {
	c, now := &w.cfg, time.Now()
	var errs []error
	there, back := heartbeat{c.SourceAlias, c.DestinationAlias, now}, heartbeat{c.DestinationAlias, c.SourceAlias, now}
	errs = append(errs,
		produce(ctx, c.Destination, &kgo.Record{Topic: flow.Heartbeats, Key: there.key(), Value: there.value()}),
		produce(ctx, c.Source, &kgo.Record{Topic: flow.Heartbeats, Key: back.key(), Value: back.value()}))
	var batch []*kgo.Record
	for _, p := range c.Checkpoints() {
		if err := errors.Join(fits(p.Group), fits(p.Metadata)); err != nil {
			errs = append(errs, fmt.Errorf("checkpoint: %w", err))
			continue
		}
		batch = w.changed(batch, &kgo.Record{Topic: c.CheckpointsTopic(), Key: p.key(), Value: p.value()})
	}
	errs = append(errs, w.write(ctx, c.Destination, batch))
	if cl, topic := c.syncs(); cl != nil {
		batch = nil
		for _, s := range c.Syncs() {
			batch = w.changed(batch, &kgo.Record{Topic: topic, Key: s.key(), Value: s.value()})
		}
		errs = append(errs, w.write(ctx, cl, batch))
	}
	return errors.Join(errs...)
}

func place(r *kgo.Record) string { return r.Topic + "\x00" + string(r.Key) }

func (w *Writer) changed(batch []*kgo.Record, r *kgo.Record) []*kgo.Record {
	if w.written[place(r)] == string(r.Value) {
		return batch
	}
	return append(batch, r)
}

func (w *Writer) write(ctx context.Context, cl *kgo.Client, batch []*kgo.Record) error {
	if len(batch) == 0 {
		return nil
	}
	if err := produce(ctx, cl, batch...); err != nil {
		return err
	}
	for _, r := range batch {
		w.written[place(r)] = string(r.Value)
	}
	return nil
}

// patience bounds how long one write may take.
const patience = 10 * time.Second

func produce(ctx context.Context, cl *kgo.Client, records ...*kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		if errors.Is(err, kerr.UnknownTopicID) {
			// It was deleted and made again. A client takes the new one for the old until it
			// has forgotten that.
			cl.PurgeTopicsFromProducing(records[0].Topic)
		}
		return fmt.Errorf("write to %s: %w", records[0].Topic, err)
	}
	return nil
}

// relay copies the source's heartbeats to the destination until it is stopped, from the
// end on: an old one says nothing.
func (w *Writer) relay(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := w.relayOnce(ctx); err != nil && ctx.Err() == nil {
				w.cfg.Log.Warn("heartbeats of the source are not copied", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

func (w *Writer) relayOnce(ctx context.Context) error {
	in, err := w.cfg.Dial(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{flow.Heartbeats: {0: kgo.NewOffset().AtEnd()}}))
	if err != nil {
		return err
	}
	defer in.Close()
	for {
		fetches := in.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", flow.Heartbeats, err)
		}
		var batch []*kgo.Record
		fetches.EachRecord(func(r *kgo.Record) {
			batch = append(batch, &kgo.Record{Topic: w.cfg.RemoteHeartbeats(), Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp})
		})
		if len(batch) > 0 {
			if err := produce(ctx, w.cfg.Destination, batch...); err != nil {
				return err
			}
		}
	}
}
