package group

import (
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/record"
)

// machine is the state of a group of either protocol, as its shard handles it.
type machine interface {
	Step(now time.Time, e Event) []Effect
	// clone returns a copy, which steps do not share with the original.
	clone() machine
	Wake() time.Time
	State() State
	CheckCommit(now time.Time, memberID, instanceID string, epoch int32, transactional bool) error
	CheckFetch(memberID string, epoch int32) error
	// empty says that there are no members.
	empty() bool
	// subscribed are the topics that the members read. It fails when that cannot
	// be known.
	subscribed() (map[string]bool, error)
	// parts are all that the group consists of, in the order in which they are
	// written.
	parts() []Part
	// value is what a part's record says; nil is that there is no such part.
	value(p Part) []byte
	// emptySince is when the last member left, if offsets are to be kept from
	// then on.
	emptySince() (time.Time, bool)
}

var (
	_ machine = (*Group)(nil)
	_ machine = (*Consumer)(nil)
)

func (g *Group) clone() machine {
	c := *g
	c.members = make(map[string]*member, len(g.members))
	for id, m := range g.members {
		own := *m
		c.members[id] = &own
	}
	c.static, c.pending = maps.Clone(g.static), maps.Clone(g.pending)
	return &c
}

func (g *Consumer) clone() machine {
	c := *g
	c.members = make(map[string]*consumerMember, len(g.members))
	for id, m := range g.members {
		own := *m
		if m.classic != nil {
			classic := *m.classic
			own.classic = &classic
		}
		c.members[id] = &own
	}
	c.owners = make(map[TopicID]map[int32]string, len(g.owners))
	for id, owners := range g.owners {
		c.owners[id] = maps.Clone(owners)
	}
	c.static, c.target, c.patterns = maps.Clone(g.static), maps.Clone(g.target), maps.Clone(g.patterns)
	return &c
}

// State is where the group stands.
func (g *Group) State() State { return g.state }

// CheckFetch accepts everybody: members of a classic group do not say who they
// are when they fetch offsets.
func (g *Group) CheckFetch(string, int32) error { return nil }

func (g *Group) empty() bool { return g.state == Empty }

func (g *Group) parts() []Part { return []Part{{Kind: partClassic}} }

func (g *Group) emptySince() (time.Time, bool) { return g.since, g.protocolType != "" }

func (g *Consumer) emptySince() (time.Time, bool) { return g.since, true }

// subscribed are the topics that the members of a live group read. It fails for
// a group whose metadata is not a consumer's: what it reads is not known.
func (g *Group) subscribed() (map[string]bool, error) {
	topics := map[string]bool{}
	if g.state == Empty {
		return topics, nil
	}
	if g.protocolType != consumerType {
		return nil, kerr.NonEmptyGroup
	}
	for _, m := range g.members {
		for _, p := range m.protocols {
			sub, err := readSubscription(p.Metadata)
			if err != nil {
				return nil, kerr.NonEmptyGroup
			}
			for _, t := range sub.Topics {
				topics[t] = true
			}
		}
	}
	return topics, nil
}

// parts begin with the epoch and end with what each member has, so that a group
// which is read up to any point is one that may have been.
func (g *Consumer) parts() []Part {
	members := g.ordered()
	var all []Part
	for _, m := range members {
		all = append(all, Part{partMember, m.id})
	}
	for regex := range g.patterns {
		all = append(all, Part{partPattern, regex})
	}
	all = append(all, Part{Kind: partEpoch})
	for _, m := range members {
		all = append(all, Part{partTarget, m.id})
	}
	all = append(all, Part{Kind: partTargetEpoch})
	for _, m := range members {
		all = append(all, Part{partCurrent, m.id})
	}
	return all
}

// recordsOf are the records of parts of a group, as it is. The record of the
// epoch bears the time of it, which outlives a restart that way.
func recordsOf(name string, m machine, parts []Part, now time.Time) []record.Record {
	records := make([]record.Record, 0, len(parts))
	for _, p := range parts {
		r := record.Record{Timestamp: now.UnixMilli(), Key: partKey(name, p), Value: m.value(p)}
		if c, ok := m.(*Consumer); ok && p.Kind == partEpoch {
			r.Timestamp = c.since.UnixMilli()
		}
		records = append(records, r)
	}
	return records
}

// tombstonesOf are the records that take a group back.
func tombstonesOf(name string, m machine, now time.Time) []record.Record {
	parts := m.parts()
	gone := make([]record.Record, 0, len(parts))
	// What other records hang on goes last, as in Kafka.
	for i := len(parts) - 1; i >= 0; i-- {
		gone = append(gone, tombstone(partKey(name, parts[i]), now))
	}
	return gone
}
