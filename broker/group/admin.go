package group

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/record"
)

// Fetched is a committed offset, -1 if there is none.
type Fetched struct {
	Offset
	// Err is UNSTABLE_OFFSET_COMMIT when a transaction that is not yet decided
	// may move the offset and the caller wants none such.
	Err error
}

// FetchRequest asks for committed offsets of a group.
type FetchRequest struct {
	Group      string
	Partitions []TopicPartition // nil is all that have an offset
	// Stable refuses offsets that an open transaction may move.
	Stable bool
	// MemberID and MemberEpoch are those of a member of the consumer protocol; ""
	// and -1 are of nobody.
	MemberID    string
	MemberEpoch int32
}

// Offsets returns the committed offsets of a group. A group that does not exist
// has none. No offset is returned that is not durable.
func (c *Coordinator) Offsets(ctx context.Context, r FetchRequest) ([]Fetched, error) {
	partitions := r.Partitions
	s, err := c.shardOfAny(r.Group)
	if err != nil {
		return nil, err
	}
	var out []Fetched
	var next int64
	err = s.Do(ctx, func() error {
		e := s.get(r.Group)
		if e != nil {
			if err := e.group.CheckFetch(r.MemberID, r.MemberEpoch); err != nil {
				return err
			}
		}
		if partitions == nil && e != nil {
			partitions = e.offsets.partitions()
		}
		out = make([]Fetched, len(partitions))
		for i, tp := range partitions {
			out[i].Offset = Offset{TopicPartition: tp, Offset: -1, LeaderEpoch: -1}
			if e == nil {
				continue
			}
			p, ok := e.offsets.committed[tp]
			switch {
			case r.Stable && e.offsets.unstable(tp):
				out[i].Err = kerr.UnstableOffsetCommit
			case ok:
				out[i].Offset = p.Offset
			}
		}
		if e != nil {
			next = e.next
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, s.Wait(ctx, next)
}

// Description is a group as an administrator sees it.
type Description struct {
	Group, ProtocolType, Protocol string
	State                         State
	Members                       []Member
	// Consumer says that there is such a group, of the consumer protocol.
	Consumer bool
}

// Member is a member of a group. Metadata and Assignment are empty unless the
// group is stable.
type Member struct {
	MemberID, InstanceID string
	ClientID, ClientHost string
	Metadata, Assignment []byte
}

// Describe returns a classic group; one that does not exist, or speaks another
// protocol, is [Dead].
func (c *Coordinator) Describe(ctx context.Context, group string) (Description, error) {
	s, err := c.shardOfAny(group)
	if err != nil {
		return Description{}, err
	}
	d := Description{Group: group, State: Dead}
	err = s.Do(ctx, func() error {
		e := s.get(group)
		if e == nil {
			return nil
		}
		g, classic := e.group.(*Group)
		if !classic {
			d.Consumer = true
			return nil
		}
		d.State, d.ProtocolType = g.state, g.protocolType
		if g.state == Stable {
			d.Protocol = g.protocol
		}
		for _, m := range g.ordered() {
			dm := Member{MemberID: m.id, InstanceID: m.instanceID, ClientID: m.clientID, ClientHost: m.clientHost}
			if g.state == Stable {
				dm.Metadata, dm.Assignment = m.metadata(g.protocol), m.assignment
			}
			d.Members = append(d.Members, dm)
		}
		return nil
	})
	return d, err
}

// Type is the protocol of a group, by Kafka's name.
type Type string

// The types of groups.
const (
	TypeClassic  Type = "classic"
	TypeConsumer Type = "consumer"
)

// Listed is a group in a list.
type Listed struct {
	Group, ProtocolType string
	State               State
	Type                Type
}

// List returns the groups of all partitions that are led here, sorted. An error
// says that the list is not whole: a partition is being loaded, or is down.
func (c *Coordinator) List(ctx context.Context) ([]Listed, error) {
	shards, missing := c.shards.All()
	var all []Listed
	for _, s := range shards {
		err := s.Do(ctx, func() error {
			for name, e := range s.groups {
				l := Listed{name, consumerType, e.group.State(), TypeConsumer}
				if g, classic := e.group.(*Group); classic {
					l.ProtocolType, l.Type = g.protocolType, TypeClassic
				}
				all = append(all, l)
			}
			return nil
		})
		missing = cmp.Or(missing, err)
	}
	slices.SortStableFunc(all, func(a, b Listed) int { return cmp.Compare(a.Group, b.Group) })
	return all, missing
}

// Delete removes a group without members, and its offsets.
func (c *Coordinator) Delete(ctx context.Context, group string) error {
	s, err := c.shardOfAny(group)
	if err != nil {
		return err
	}
	var next int64
	err = s.Do(ctx, func() error {
		e := s.get(group)
		switch {
		case e == nil:
			return kerr.GroupIDNotFound
		case !e.group.empty():
			return kerr.NonEmptyGroup
		}
		now := time.Now()
		gone := tombstonesOf(group, e.group, now)
		for _, tp := range e.offsets.all() {
			gone = append(gone, tombstone(offsetKey(group, tp), now))
		}
		if _, err := s.append(e, gone, record.NoProducer(record.None)); err != nil {
			return err
		}
		next = e.next
		s.unschedule(e)
		delete(s.groups, group)
		return nil
	})
	if err != nil {
		return err
	}
	return s.Wait(ctx, next)
}

// DeleteOffsets removes committed offsets of a group, and says for each partition
// why not. Topics to which a live group is subscribed are refused.
func (c *Coordinator) DeleteOffsets(ctx context.Context, group string, partitions []TopicPartition) ([]error, error) {
	s, err := c.shard(group)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(partitions))
	var next int64
	err = s.Do(ctx, func() error {
		e := s.get(group)
		if e == nil {
			return kerr.GroupIDNotFound
		}
		subscribed, err := e.group.subscribed()
		if err != nil {
			return err
		}
		now := time.Now()
		var gone []record.Record
		for i, tp := range partitions {
			if subscribed[tp.Topic] {
				errs[i] = kerr.GroupSubscribedToTopic
			} else if _, ok := e.offsets.committed[tp]; ok {
				gone = append(gone, tombstone(offsetKey(group, tp), now))
			}
		}
		if _, err := s.append(e, gone, record.NoProducer(record.None)); err != nil {
			return err
		}
		for i, tp := range partitions {
			if errs[i] == nil {
				e.offsets.remove(tp)
			}
		}
		next = e.next
		s.forget(e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return errs, s.Wait(ctx, next)
}
