package mirrormaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
)

// Heartbeats is the topic of heartbeats of the cluster in which it is.
const Heartbeats = "heartbeats"

// Config is what a Writer needs.
type Config struct {
	SourceAlias, DestinationAlias string
	// OffsetSyncs is where pairs of offsets are written: [flow.OffsetSyncsSource],
	// [flow.OffsetSyncsDestination] or [flow.OffsetSyncsNone].
	OffsetSyncs string
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
	err     atomic.Pointer[string]
}

// NewWriter returns a Writer.
func NewWriter(cfg Config) *Writer { return &Writer{cfg: cfg, written: map[string]string{}} }

// every is between two looks, and between heartbeats.
const every = time.Second

// checkpointsTopic is the name of the topic of checkpoints at the destination.
func (c *Config) checkpointsTopic() string { return c.SourceAlias + ".checkpoints.internal" }

// remoteHeartbeats is what the source's heartbeats are called at the destination.
func (c *Config) remoteHeartbeats() string { return c.SourceAlias + "." + Heartbeats }

// syncs is where pairs of offsets are written: nil is nowhere. The name has the alias
// of the other cluster.
func (c *Config) syncs() (cl *kgo.Client, topic string) {
	switch c.OffsetSyncs {
	case flow.OffsetSyncsSource:
		return c.Source, "mm2-offset-syncs." + c.DestinationAlias + ".internal"
	case flow.OffsetSyncsDestination:
		return c.Destination, "mm2-offset-syncs." + c.SourceAlias + ".internal"
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
	made := false
	var stop func() // the relay, once there is something to read
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		err := w.prepare(ctx, &made)
		if err == nil {
			if stop == nil && w.cfg.Dial != nil {
				stop = w.relay(ctx)
			}
			err = w.look(ctx)
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

// prepare makes the topics, once.
func (w *Writer) prepare(ctx context.Context, made *bool) error {
	if *made {
		return nil
	}
	c := &w.cfg
	err := errors.Join(
		create(ctx, c.Source, Heartbeats), create(ctx, c.Destination, Heartbeats),
		create(ctx, c.Destination, c.remoteHeartbeats()), create(ctx, c.Destination, c.checkpointsTopic()),
	)
	if cl, topic := c.syncs(); cl != nil {
		err = errors.Join(err, create(ctx, cl, topic))
	}
	*made = err == nil
	return err
}

// create makes a topic of one partition that is compacted, as MirrorMaker does, unless
// it is there.
func create(ctx context.Context, cl *kgo.Client, topic string) error {
	compact := "compact"
	_, err := kadm.NewClient(cl).CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &compact}, topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}

// look writes heartbeats, and what has changed since it was written.
func (w *Writer) look(ctx context.Context) error {
	c, now := &w.cfg, time.Now()
	var errs []error
	there, back := heartbeat{c.SourceAlias, c.DestinationAlias, now}, heartbeat{c.DestinationAlias, c.SourceAlias, now}
	errs = append(errs,
		produce(ctx, c.Destination, &kgo.Record{Topic: Heartbeats, Key: there.key(), Value: there.value()}),
		produce(ctx, c.Source, &kgo.Record{Topic: Heartbeats, Key: back.key(), Value: back.value()}))
	var batch []*kgo.Record
	for _, p := range c.Checkpoints() {
		if err := errors.Join(fits(p.Group), fits(p.Metadata)); err != nil {
			errs = append(errs, fmt.Errorf("checkpoint: %w", err))
			continue
		}
		batch = w.changed(batch, &kgo.Record{Topic: c.checkpointsTopic(), Key: p.key(), Value: p.value()})
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
	in, err := w.cfg.Dial(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{Heartbeats: {0: kgo.NewOffset().AtEnd()}}))
	if err != nil {
		return err
	}
	defer in.Close()
	for {
		fetches := in.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read %s: %w", Heartbeats, err)
		}
		var batch []*kgo.Record
		fetches.EachRecord(func(r *kgo.Record) {
			batch = append(batch, &kgo.Record{Topic: w.cfg.remoteHeartbeats(), Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp})
		})
		if len(batch) > 0 {
			if err := produce(ctx, w.cfg.Destination, batch...); err != nil {
				return err
			}
		}
	}
}
