package group

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

// Versions of Kafka's record formats that are written. Those that are read are
// all that kmsg knows.
const (
	offsetKeyVersion   = 1
	offsetValueVersion = 3
	groupKeyVersion    = 2
	groupValueVersion  = 3

	maxOffsetValueVersion = 4
	maxGroupValueVersion  = 4
)

// offsetRecord is the record of a committed offset.
func offsetRecord(group string, o Offset, at time.Time) record.Record {
	v := kmsg.NewOffsetCommitValue()
	v.Version = offsetValueVersion
	v.Offset, v.LeaderEpoch, v.Metadata = o.Offset, o.LeaderEpoch, o.Metadata
	v.CommitTimestamp = at.UnixMilli()
	return record.Record{Timestamp: at.UnixMilli(), Key: offsetKey(group, o.TopicPartition), Value: v.AppendTo(nil)}
}

func offsetKey(group string, tp TopicPartition) []byte {
	k := kmsg.NewOffsetCommitKey()
	k.Version = offsetKeyVersion
	k.Group, k.Topic, k.Partition = group, tp.Topic, tp.Partition
	return k.AppendTo(nil)
}

func groupKey(group string) []byte {
	k := kmsg.NewGroupMetadataKey()
	k.Version = groupKeyVersion
	k.Group = group
	return k.AppendTo(nil)
}

// value implements [machine]: what a classic group's one record says. Kafka writes
// it when the group is Stable or Empty, and forgets a rebalance that a crash cuts
// short: its members are then told that they are unknown, or their generation. So
// there is a record of the others too. A group that is PreparingRebalance has no
// leader in it, and only members that were in a generation; one that is
// CompletingRebalance has no assignments.
func (g *Group) value(Part) []byte {
	v := kmsg.NewGroupMetadataValue()
	v.Version = groupValueVersion
	v.ProtocolType, v.Generation = g.protocolType, g.generation
	v.CurrentStateTimestamp = g.since.UnixMilli()
	if g.protocol != "" {
		v.Protocol = &g.protocol
	}
	if g.leader != "" && g.state != PreparingRebalance {
		v.Leader = &g.leader
	}
	for _, m := range g.ordered() {
		if m.isNew {
			continue
		}
		vm := kmsg.NewGroupMetadataValueMember()
		vm.MemberID, vm.ClientID, vm.ClientHost = m.id, m.clientID, m.clientHost
		if m.instanceID != "" {
			vm.InstanceID = &m.instanceID
		}
		vm.RebalanceTimeoutMillis = int32(m.rebalance.Milliseconds())
		vm.SessionTimeoutMillis = int32(m.session.Milliseconds())
		vm.Subscription = m.metadata(g.protocol)
		if g.state != CompletingRebalance {
			vm.Assignment = m.assignment
		}
		v.Members = append(v.Members, vm)
	}
	return v.AppendTo(nil)
}

// tombstone is the record that takes a key back.
func tombstone(key []byte, at time.Time) record.Record {
	return record.Record{Timestamp: at.UnixMilli(), Key: key}
}

// loaded is one record of __consumer_offsets, read. A nil group or offset is a
// tombstone. Parts of a group of the consumer protocol are read by the group.
type loaded struct {
	name   string
	part   Part // Kind is 0 for an offset
	tp     TopicPartition
	offset *kmsg.OffsetCommitValue
	group  *kmsg.GroupMetadataValue
}

// readRecord reads a record of __consumer_offsets. It returns false for one that
// this version does not know, such as those of other kinds of groups.
func readRecord(r record.Record) (loaded, bool, error) {
	if len(r.Key) < 2 {
		return loaded{}, false, fmt.Errorf("key of %d bytes", len(r.Key))
	}
	switch version := int16(binary.BigEndian.Uint16(r.Key)); partKind(version) {
	case 0, offsetKeyVersion:
		l, err := readOffset(r)
		return l, true, err
	case partClassic:
		l, err := readGroup(r)
		return l, true, err
	case partEpoch, partPartitions, partMember, partTargetEpoch, partTarget, partCurrent, partPattern:
		name, part, err := readPartKey(r.Key)
		return loaded{name: name, part: part}, true, err
	}
	return loaded{}, false, nil
}

func readOffset(r record.Record) (loaded, error) {
	var k kmsg.OffsetCommitKey
	if err := k.ReadFrom(r.Key); err != nil {
		return loaded{}, fmt.Errorf("key of an offset: %w", err)
	}
	l := loaded{name: k.Group, tp: TopicPartition{k.Topic, k.Partition}}
	if r.Value == nil {
		return l, nil
	}
	if err := checkVersion(r.Value, maxOffsetValueVersion); err != nil {
		return loaded{}, fmt.Errorf("offset of %q: %w", k.Group, err)
	}
	l.offset = new(kmsg.OffsetCommitValue)
	l.offset.Default()
	l.offset.LeaderEpoch = -1 // not in values before version 3
	if err := l.offset.ReadFrom(r.Value); err != nil {
		return loaded{}, fmt.Errorf("offset of %q: %w", k.Group, err)
	}
	return l, nil
}

func readGroup(r record.Record) (loaded, error) {
	var k kmsg.GroupMetadataKey
	if err := k.ReadFrom(r.Key); err != nil {
		return loaded{}, fmt.Errorf("key of a group: %w", err)
	}
	l := loaded{name: k.Group, part: Part{Kind: partClassic}}
	if r.Value == nil {
		return l, nil
	}
	if err := checkVersion(r.Value, maxGroupValueVersion); err != nil {
		return loaded{}, fmt.Errorf("group %q: %w", k.Group, err)
	}
	l.group = new(kmsg.GroupMetadataValue)
	l.group.Default()
	if err := l.group.ReadFrom(r.Value); err != nil {
		return loaded{}, fmt.Errorf("group %q: %w", k.Group, err)
	}
	return l, nil
}

// checkVersion refuses values of versions that the codec would read as if it knew
// them.
func checkVersion(value []byte, most int16) error {
	if len(value) < 2 {
		return fmt.Errorf("value of %d bytes", len(value))
	}
	if version := int16(binary.BigEndian.Uint16(value)); version < 0 || version > most {
		return fmt.Errorf("value of version %d, and this program knows none above %d", version, most)
	}
	return nil
}

// restore makes a group of its record. Its members have a session from now on to
// show themselves.
func restore(name string, rules Rules, v *kmsg.GroupMetadataValue, now time.Time) *Group {
	g := New(name, rules, now)
	g.protocolType, g.generation = v.ProtocolType, v.Generation
	if v.CurrentStateTimestamp > 0 {
		g.since = time.UnixMilli(v.CurrentStateTimestamp)
	}
	if len(v.Members) == 0 {
		return g
	}
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	for _, vm := range v.Members {
		g.joined++
		m := &member{
			id: vm.MemberID, clientID: vm.ClientID, clientHost: vm.ClientHost,
			session:    time.Duration(vm.SessionTimeoutMillis) * time.Millisecond,
			rebalance:  time.Duration(vm.RebalanceTimeoutMillis) * time.Millisecond,
			protocols:  []Protocol{{g.protocol, slices.Clone(vm.Subscription)}},
			assignment: slices.Clone(vm.Assignment),
			order:      g.joined,
		}
		if vm.RebalanceTimeoutMillis < 0 {
			m.rebalance = m.session
		}
		m.deadline = now.Add(m.session)
		if vm.InstanceID != nil {
			m.instanceID = *vm.InstanceID
			g.static[m.instanceID] = m.id
		}
		g.members[m.id] = m
	}
	if v.Leader == nil || g.members[*v.Leader] == nil {
		g.leader = g.ordered()[0].id
		g.state, g.joinDeadline = PreparingRebalance, now.Add(g.rebalanceTimeout())
		return g
	}
	g.leader = *v.Leader
	if slices.ContainsFunc(v.Members, func(m kmsg.GroupMetadataValueMember) bool { return len(m.Assignment) > 0 }) {
		g.state = Stable
		return g
	}
	g.state, g.syncDeadline = CompletingRebalance, now.Add(g.rebalanceTimeout())
	for _, m := range g.members {
		m.pendingSync = true
	}
	return g
}
