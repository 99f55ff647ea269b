package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// The topic configurations of mirror topics. mirror.source makes a new topic one;
// they are read-only afterwards.
const (
	mirrorSetting = "mirror."
	mirrorSource  = mirrorSetting + "source"
	mirrorState   = mirrorSetting + "state"
	mirrorReason  = mirrorSetting + "failure"
	mirrorWriters = mirrorSetting + "writer.epochs"
	mirrorEpochs  = mirrorSetting + "source.epochs"
	mirrorEnds    = mirrorSetting + "promoted.offsets"
	mirrorEnded   = mirrorSetting + "ended.transactions"

	maxMirrorText = 1024
	// maxByPartition bounds a value that tells of each partition: before version 4
	// of DescribeConfigs a string has at most 32 KiB.
	maxByPartition = 16 << 10
)

// takeMirror takes mirror.source out of a new topic's configs; nil if it is not
// there.
func takeMirror(topic string, configs map[string]string) (*controller.Mirror, error) {
	source, ok := configs[mirrorSource]
	if !ok {
		return nil, nil
	}
	delete(configs, mirrorSource)
	if isInternal(topic) {
		return nil, refuse(kerr.InvalidTopicException, "internal topics cannot be mirrors")
	}
	if err := checkSource(source); err != nil {
		return nil, err
	}
	return &controller.Mirror{Source: source, State: controller.MirrorActive}, nil
}

func checkSource(source string) error {
	cluster, topic, ok := strings.Cut(source, "/")
	if !ok || cluster == "" || topic == "" || len(source) > maxMirrorText {
		return refuse(kerr.InvalidConfig, fmt.Sprintf("%s=%q: want <cluster id>/<topic id>", mirrorSource, source))
	}
	return nil
}

// describeMirror lists the configs of a topic that is a mirror or was one.
func describeMirror(t *topic) []kmsg.DescribeConfigsResponseResourceConfig {
	if t.Mirror == nil {
		return nil
	}
	var out []kmsg.DescribeConfigsResponseResourceConfig
	row := func(name, value, doc string) {
		c := kmsg.NewDescribeConfigsResponseResourceConfig()
		c.Name, c.ConfigType, c.Value, c.Documentation = name, kmsg.ConfigTypeString, &value, &doc
		c.Source, c.ReadOnly = kmsg.ConfigSourceDynamicTopicConfig, true
		out = append(out, c)
	}
	row(mirrorSource, t.Mirror.Source, "The topic whose records this one holds, at the same offsets.")
	row(mirrorState, string(t.Mirror.State), "What the mirror is doing. Until it is promoted only its writer adds to it.")
	if t.Mirror.Reason != "" {
		row(mirrorReason, t.Mirror.Reason, "Why the mirror has failed.")
	}
	each := func(name, doc string, value func(*replica.Partition) (int64, bool)) {
		if all := byPartition(t.partitions, value); all != "" {
			row(name, all, doc+" As partition:value, or first-last:value.")
		}
	}
	each(mirrorWriters, "The highest epoch of a writer that was let in: lower ones are fenced.", func(p *replica.Partition) (int64, bool) {
		return p.Mirror().WriterEpoch, p.Offline() == nil
	})
	if t.Mirror.ReadOnly() {
		each(mirrorEpochs, "The source's leader epoch in the last record.", func(p *replica.Partition) (int64, bool) {
			return int64(p.LastEpoch()), p.LastEpoch() >= 0
		})
	}
	each(mirrorEnds, "Up to where it came from the source.", func(p *replica.Partition) (int64, bool) {
		return p.Mirror().PromotedAt, p.Mirror().PromotedAt >= 0
	})
	each(mirrorEnded, "How many transactions that the source had open the promotion has aborted.", func(p *replica.Partition) (int64, bool) {
		n := len(p.Mirror().Ended)
		return int64(n), n > 0
	})
	return out
}

// byPartition tells a value of each partition that has one. Neighbours with the same
// value are told together; what is too much is left out, and "..." says so.
func byPartition(partitions []*replica.Partition, value func(*replica.Partition) (int64, bool)) string {
	var out strings.Builder
	for first := 0; first < len(partitions); {
		v, some := value(partitions[first])
		next := first + 1
		for ; next < len(partitions); next++ {
			if other, has := value(partitions[next]); has != some || other != v {
				break
			}
		}
		if some {
			if out.Len() > 0 {
				out.WriteByte(',')
			}
			if out.Len() > maxByPartition {
				out.WriteString("...")
				break
			}
			out.WriteString(strconv.Itoa(first))
			if next > first+1 {
				fmt.Fprintf(&out, "-%d", next-1)
			}
			fmt.Fprintf(&out, ":%d", v)
		}
		first = next
	}
	return out.String()
}

// stateOf is a topic's state on the wire.
func stateOf(t *topic) mirrorwire.State {
	if t.Mirror == nil {
		return mirrorwire.NoMirror
	}
	switch t.Mirror.State {
	case controller.MirrorActive:
		return mirrorwire.Active
	case controller.MirrorPaused:
		return mirrorwire.Paused
	case controller.MirrorPromoting:
		return mirrorwire.Promoting
	case controller.MirrorPromoted:
		return mirrorwire.Promoted
	case controller.MirrorRestoring:
		return mirrorwire.Restoring
	}
	return mirrorwire.Failed
}

// isReadOnly says that clients may not write to a topic; false if it is nil.
func (t *topic) isReadOnly() bool { return t != nil && t.Mirror.ReadOnly() }

// writable is what a producer to a mirror topic is told. INVALID_REQUEST is what
// Cluster Linking answers too: no client repeats it.
func (t *topic) writable() error {
	if !t.isReadOnly() {
		return nil
	}
	return refuse(kerr.InvalidRequest, fmt.Sprintf("%s is a mirror topic of %s (%s): only its mirror writes to it, until it is promoted", t.Name, t.Mirror.Source, t.Mirror.State))
}

// topicConfig is how the broker treats a topic now: what it does not set itself
// the broker's settings do. The local settings delete nothing from a mirror, by
// retention or compaction: its start follows the source's, so that an offset which
// exists there exists here. The source may lose its last records, and what they
// superseded must then be here still.
func (b *Broker) topicConfig(t *controller.Topic) topicConfig {
	c := topicConfigOf(b.settings.Load().complete(t.Configs), b.logShare())
	if t.Mirror.ReadOnly() {
		c.log.RetentionAge, c.log.RetentionBytes, c.log.Compact = -1, -1, false
	}
	return c
}

// settleMirror makes a partition that was opened what its topic is.
func settleMirror(m *controller.Mirror, p *replica.Partition) error {
	var err error
	switch {
	case !m.ReadOnly():
		err = p.CancelMirror() // It was begun, and the metadata never said so.
	case m.State != controller.MirrorPromoting && p.Mirror().PromotedAt >= 0:
		// The metadata are older than its promotion: see failPromoted.
		p.AcceptMirrored(false)
		return nil
	case m.State != controller.MirrorPromoting, p.Mirror().Role == commitlog.Plain:
		// One that is added while its topic is promoted is promoted with it.
		err = p.BeginMirror(p.EndOffset(), p.LastEpoch(), false)
	}
	if err != nil {
		return fmt.Errorf("partition %s: as a mirror: %w", p, err)
	}
	p.AcceptMirrored(m != nil && m.State == controller.MirrorActive)
	return nil
}

// applyMirror makes the partitions of a topic that was changed do what it says.
func (b *Broker) applyMirror(t *topic) {
	epoch := b.ctl.Image().Starts + t.EpochOffset
	for _, p := range t.partitions {
		p.RaiseEpoch(epoch)
		p.AcceptMirrored(t.Mirror != nil && t.Mirror.State == controller.MirrorActive)
	}
}

// setMirror stores a topic's new state as a mirror, and returns the topic as it is
// then. epochOffset is kept if it is lower than before.
func (b *Broker) setMirror(t *topic, epochOffset int32, m controller.Mirror) (*topic, error) {
	return b.changeTopic(t.Name, nil, func(have controller.Topic) (controller.Topic, error) {
		if have.ID != t.ID {
			return have, kerr.UnknownTopicID
		}
		have.EpochOffset = max(have.EpochOffset, epochOffset)
		have.Mirror = &m
		return have, nil
	})
}

// failMirror stops a mirror whose source contradicts itself.
func (b *Broker) failMirror(t *topic, reason string) {
	b.mirrorMu.Lock()
	defer b.mirrorMu.Unlock()
	now := b.topicByID(t.ID)
	if now == nil || now.Mirror == nil || now.Mirror.State != controller.MirrorActive {
		return
	}
	b.log.Error("mirror topic has failed", "topic", t.Name, "reason", reason)
	m := *now.Mirror
	m.State, m.Reason = controller.MirrorFailed, reason[:min(len(reason), maxMirrorText)]
	if _, err := b.setMirror(now, 0, m); err != nil {
		b.log.Error("state of a mirror topic is not stored", "topic", t.Name, "err", err)
	}
}

// alterMirror carries out one change. Changes are serialised: they are rare.
func (b *Broker) alterMirror(ctx context.Context, id controller.TopicID, want *mirrorwire.AlterRequestTopic) error {
	b.mirrorMu.Lock()
	defer b.mirrorMu.Unlock()
	t := b.topicByID(id)
	if t == nil {
		return kerr.UnknownTopicID
	}
	if want.Op == mirrorwire.Restore {
		return b.restoreMirror(t, want)
	}
	if t.Mirror == nil {
		return refuse(kerr.InvalidRequest, fmt.Sprintf("topic %s is no mirror topic", t.Name))
	}
	m := *t.Mirror
	refused := refuse(kerr.InvalidRequest, fmt.Sprintf("mirror topic %s is %s", t.Name, m.State))
	running := m.State == controller.MirrorActive || m.State == controller.MirrorPaused || m.State == controller.MirrorFailed
	switch want.Op {
	case mirrorwire.Promote:
		if m.State == controller.MirrorPromoted {
			return nil
		}
		if !running && m.State != controller.MirrorPromoting {
			return refused
		}
		return b.promoteMirror(ctx, t)
	case mirrorwire.Pause:
		if m.State == controller.MirrorFailed {
			return refused
		}
		m.State = controller.MirrorPaused
	case mirrorwire.Resume:
		if wasPromoted(t) {
			return refuse(kerr.InvalidRequest, fmt.Sprintf("mirror topic %s: %s", t.Name, promotedBefore))
		}
		m.State, m.Reason = controller.MirrorActive, ""
	case mirrorwire.Fail:
		m.State, m.Reason = controller.MirrorFailed, want.Reason[:min(len(want.Reason), maxMirrorText)]
	default:
		return refuse(kerr.InvalidRequest, fmt.Sprintf("operation %d is not known", want.Op))
	}
	if !running {
		return refused
	}
	_, err := b.setMirror(t, 0, m)
	return err
}

// promoteMirror makes a mirror an ordinary topic. The intent is stored first, with
// leader epochs above all that clients were told; every step after it may be
// repeated.
func (b *Broker) promoteMirror(ctx context.Context, t *topic) error {
	t, err := b.beginPromotion(t)
	if err != nil {
		return err
	}
	m := *t.Mirror
	cluster, own := b.ClusterID(), int64(-1)
	for _, p := range t.partitions {
		for _, s := range p.Producers() {
			if controller.OwnProducerID(cluster, s.ProducerID) {
				own = max(own, s.ProducerID)
			}
		}
	}
	if err := b.ctl.PassProducerID(own); err != nil {
		return fmt.Errorf("promote %s: %w", t.Name, err)
	}
	for _, p := range t.partitions {
		if err := p.Promote(ctx); err != nil {
			return err
		}
	}
	m.State = controller.MirrorPromoted
	if _, err := b.setMirror(t, 0, m); err != nil {
		return fmt.Errorf("promote %s: %w", t.Name, err)
	}
	b.log.Info("mirror topic promoted", "topic", t.Name, "source", m.Source)
	return nil
}

// beginPromotion stores the intent to promote, unless that is done, and returns the
// topic as it is then. The epoch is chosen when no batch is on its way into the
// mirror any more: one might bring a higher epoch, above which nothing could be
// appended.
func (b *Broker) beginPromotion(t *topic) (*topic, error) {
	begun := errors.New("it has begun")
	next, err := b.changeTopic(t.Name, nil, func(have controller.Topic) (controller.Topic, error) {
		if have.ID != t.ID {
			return have, kerr.UnknownTopicID
		}
		for _, p := range t.partitions {
			p.AcceptMirrored(false)
		}
		promoting, starts := have.Mirror.State == controller.MirrorPromoting, b.ctl.Image().Starts
		least := starts + have.EpochOffset
		if !promoting {
			least++
		}
		for _, p := range t.partitions {
			if err := p.Offline(); err != nil {
				return have, err
			}
			least = max(least, p.Mirror().HighestEpoch+1, p.LastEpoch()+1)
		}
		if promoting && least == starts+have.EpochOffset {
			return have, begun
		}
		have.EpochOffset = least - starts
		have.Mirror = &controller.Mirror{Source: have.Mirror.Source, State: controller.MirrorPromoting}
		return have, nil
	})
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, begun):
		return t, nil
	}
	b.topicsMu.Lock()
	defer b.topicsMu.Unlock()
	b.applyMirror(t) // it goes on as it was
	return nil, fmt.Errorf("begin to promote %s: %w", t.Name, err)
}

// restoreMirror makes a topic a mirror (again), after cutting what its new source
// does not have. Each partition is made read-only where its end is what the caller
// has seen; only when that holds for all of them is the intent to cut stored.
func (b *Broker) restoreMirror(t *topic, want *mirrorwire.AlterRequestTopic) error {
	if b.isOwn(t.Name) || isInternal(t.Name) {
		return refuse(kerr.InvalidTopicException, "internal topics cannot be mirrors")
	}
	if err := checkSource(want.Source); err != nil {
		return err
	}
	if m := t.Mirror; m.ReadOnly() {
		switch {
		case m.State == controller.MirrorRestoring && m.Source == want.Source:
			return b.finishRestore(t)
		case m.State == controller.MirrorActive && m.Source == want.Source:
			return nil
		}
		return refuse(kerr.InvalidRequest, fmt.Sprintf("topic %s is a mirror of %s: %s", t.Name, m.Source, m.State))
	}
	cuts, err := cutsOf(t, want.Cuts)
	if err != nil {
		return err
	}
	offsets := make([]int64, len(cuts))
	for n, p := range t.partitions {
		err := p.BeginMirror(cuts[n].ExpectedEnd, cuts[n].ExpectedEpoch, t.Mirror != nil && t.Mirror.Source == want.Source)
		if err == nil {
			if err = p.CheckCut(cuts[n].TruncateTo); errors.Is(err, commitlog.ErrOffsetOutOfRange) {
				err = refuse(kerr.OffsetOutOfRange, fmt.Sprintf("partition %d: %v", n, err))
			}
		}
		if err != nil {
			for _, begun := range t.partitions[:n+1] {
				err = errors.Join(err, begun.CancelMirror())
			}
			return err
		}
		offsets[n] = cuts[n].TruncateTo
	}
	m := controller.Mirror{Source: want.Source, State: controller.MirrorRestoring, Cuts: offsets}
	begun, err := b.setMirror(t, 0, m)
	if err != nil {
		for _, p := range t.partitions {
			err = errors.Join(err, p.CancelMirror())
		}
		return fmt.Errorf("begin to restore %s: %w", t.Name, err)
	}
	return b.finishRestore(begun)
}

// cutsOf are the cuts in the order of the partitions, which they must cover.
func cutsOf(t *topic, cuts []mirrorwire.Cut) ([]mirrorwire.Cut, error) {
	out := make([]mirrorwire.Cut, len(t.partitions))
	seen := make([]bool, len(t.partitions))
	for _, c := range cuts {
		if c.Partition < 0 || int(c.Partition) >= len(out) || seen[c.Partition] {
			return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("partition %d is not there, or is named twice", c.Partition))
		}
		out[c.Partition], seen[c.Partition] = c, true
	}
	if len(cuts) != len(out) {
		return nil, refuse(kerr.InvalidRequest, fmt.Sprintf("%d cuts for %d partitions", len(cuts), len(out)))
	}
	return out, nil
}

func (b *Broker) finishRestore(t *topic) error {
	for n, p := range t.partitions {
		if n >= len(t.Mirror.Cuts) {
			break // The partition was added since.
		}
		if err := p.TruncateTo(t.Mirror.Cuts[n]); err != nil {
			return fmt.Errorf("restore %s: %w", p, err)
		}
	}
	if _, err := b.setMirror(t, 0, controller.Mirror{Source: t.Mirror.Source, State: controller.MirrorActive}); err != nil {
		return fmt.Errorf("restore %s: %w", t.Name, err)
	}
	b.log.Info("topic is a mirror again", "topic", t.Name, "source", t.Mirror.Source)
	return nil
}

// promotedBefore is why a topic is no active mirror of which metadata from before its
// promotion say that it is one.
const promotedBefore = "it was promoted after the metadata were stored that this broker was started with, and may hold records of its own: promote it again; then it can be restored"

// wasPromoted says whether the log of a partition says that its promotion has begun,
// which the metadata of a read-only topic do not know.
func wasPromoted(t *topic) bool {
	return slices.ContainsFunc(t.partitions, func(p *replica.Partition) bool { return p.Mirror().PromotedAt >= 0 })
}

// failPromoted leaves it to a person what becomes of a topic that was promoted. Its logs
// take nothing from a source whether or not that can be stored.
func (b *Broker) failPromoted(t *topic) {
	b.log.Error("mirror topic has failed", "topic", t.Name, "reason", promotedBefore)
	m := controller.Mirror{Source: t.Mirror.Source, State: controller.MirrorFailed, Reason: promotedBefore}
	if _, err := b.setMirror(t, 0, m); err != nil {
		b.log.Error("state of a mirror topic is not stored", "topic", t.Name, "err", err)
	}
}

// resumeMirrors carries on what a stop or a crash interrupted. A topic for which
// that fails stays as it is, read-only, and can be asked for again.
func (b *Broker) resumeMirrors(ctx context.Context) {
	for _, t := range b.topics.Load().byName {
		if t.Mirror == nil {
			continue
		}
		var err error
		switch t.Mirror.State {
		case controller.MirrorPromoting:
			err = b.promoteMirror(ctx, t)
		case controller.MirrorPromoted:
		default:
			if wasPromoted(t) {
				b.failPromoted(t)
			} else if t.Mirror.State == controller.MirrorRestoring {
				err = b.finishRestore(t)
			}
		}
		if err != nil {
			b.log.Error("mirror topic stays between two states", "topic", t.Name, "state", t.Mirror.State, "err", err)
		}
	}
}
