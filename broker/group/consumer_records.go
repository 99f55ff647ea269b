package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kbin"

	"github.com/waybillhq/waybill/internal/record"
)

// The records of a group of the consumer protocol, in Kafka's formats: the
// version of a key is the kind of the record, and all values are flexible and of
// version 0. The fields stand in the order of Kafka's schemas
// (ConsumerGroup*Key.json, ConsumerGroup*Value.json); the codec for requests does
// not have them.
//
//	key 3   group                 group epoch, digest of its topics
//	key 4   group                 topics, until Kafka 4.0; not written, not read
//	key 5   group, member         who it is and what it subscribes to
//	key 6   group                 epoch of the target assignment
//	key 7   group, member         its target
//	key 8   group, member         what it has
//	key 16  group, expression     topics of a regular expression
const (
	partPartitions     partKind = 4
	consumerValue      int16    = 0
	tagMetadataHash             = 0
	tagClassicMember            = 0
	tagTargetTimestamp          = 0
)

var errValue = errors.New("the value is not of its format")

// named says whether a key of the kind names something beside the group.
func (k partKind) named() bool {
	return k == partMember || k == partTarget || k == partCurrent || k == partPattern
}

func partKey(group string, p Part) []byte {
	if p.Kind == partClassic {
		return groupKey(group)
	}
	k := kbin.AppendInt16(nil, int16(p.Kind))
	k = kbin.AppendString(k, group)
	if p.Kind.named() {
		k = kbin.AppendString(k, p.Name)
	}
	return k
}

// value implements [machine].
func (g *Consumer) value(p Part) []byte {
	m := g.members[p.Name]
	v := kbin.AppendInt16(nil, consumerValue)
	switch p.Kind {
	case partEpoch:
		v = kbin.AppendInt32(v, g.epoch)
		return appendTag(v, tagMetadataHash, binary.BigEndian.AppendUint64(nil, g.metadata))
	case partTargetEpoch:
		return append(kbin.AppendInt32(v, g.assignmentEpoch), 0)
	case partMember:
		if m == nil {
			return nil
		}
		return m.append(v)
	case partTarget:
		target, ok := g.target[p.Name]
		if !ok || m == nil {
			return nil
		}
		return append(appendAssignment(v, target), 0)
	case partCurrent:
		if m == nil {
			return nil
		}
		v = kbin.AppendInt32(v, m.epoch)
		v = kbin.AppendInt32(v, m.previous)
		v = kbin.AppendInt8(v, int8(m.state))
		v = appendAssignment(v, m.assigned)
		return append(appendAssignment(v, m.revoking), 0)
	case partPattern:
		pattern, ok := g.patterns[p.Name]
		if !ok {
			return nil
		}
		topics := pattern.topics
		if !g.rules.fits(textSize(topics)) {
			topics = nil // the next start finds them anew
		}
		v = appendStrings(v, topics)
		v = kbin.AppendInt64(v, pattern.version)
		return append(kbin.AppendInt64(v, pattern.at.UnixMilli()), 0)
	}
	return nil
}

func (m *consumerMember) append(v []byte) []byte {
	v = kbin.AppendCompactNullableString(v, nullable(m.instanceID))
	v = kbin.AppendCompactNullableString(v, nullable(m.rackID))
	v = kbin.AppendCompactString(v, m.clientID)
	v = kbin.AppendCompactString(v, m.clientHost)
	v = appendStrings(v, m.topics)
	v = kbin.AppendCompactNullableString(v, nullable(m.regex))
	v = kbin.AppendInt32(v, int32(m.rebalance.Milliseconds()))
	v = kbin.AppendCompactNullableString(v, nullable(m.assignor))
	if m.classic == nil {
		return append(v, 0)
	}
	// A nullable struct begins with whether it is there.
	c := kbin.AppendInt8(nil, 1)
	c = kbin.AppendInt32(c, int32(m.classic.session.Milliseconds()))
	c = kbin.AppendCompactArrayLen(c, len(m.classic.protocols))
	for _, p := range m.classic.protocols {
		c = kbin.AppendCompactString(c, p.Name)
		c = append(kbin.AppendCompactBytes(c, p.Metadata), 0)
	}
	return appendTag(v, tagClassicMember, append(c, 0))
}

// appendTag appends the tagged fields of a struct that has one.
func appendTag(v []byte, tag uint32, field []byte) []byte {
	v = kbin.AppendUvarint(v, 1)
	v = kbin.AppendUvarint(v, tag)
	v = kbin.AppendUvarint(v, uint32(len(field)))
	return append(v, field...)
}

func appendStrings(v []byte, all []string) []byte {
	v = kbin.AppendCompactArrayLen(v, len(all))
	for _, s := range all {
		v = kbin.AppendCompactString(v, s)
	}
	return v
}

func appendAssignment(v []byte, a Assignment) []byte {
	v = kbin.AppendCompactArrayLen(v, len(a))
	for id, ps := range a.Topics() {
		v = kbin.AppendUuid(v, id)
		v = kbin.AppendCompactArrayLen(v, len(ps))
		for _, p := range ps {
			v = kbin.AppendInt32(v, p)
		}
		v = append(v, 0)
	}
	return v
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// readPartKey reads the key of a record of a consumer group.
func readPartKey(key []byte) (group string, p Part, err error) {
	r := kbin.Reader{Src: key}
	p.Kind = partKind(r.Int16())
	group = r.String()
	if p.Kind.named() {
		p.Name = r.String()
	}
	if !r.Ok() || len(r.Src) > 0 {
		return "", Part{}, fmt.Errorf("key of kind %d: %w", p.Kind, errValue)
	}
	return group, p, nil
}

// replay takes what a record says; a nil value takes the part back. Who has
// which partition is found out by [Consumer.loaded], when all is read.
func (g *Consumer) replay(p Part, r record.Record, now time.Time) error {
	if r.Value == nil {
		g.unsay(p)
		return nil
	}
	v := kbin.Reader{Src: r.Value}
	if version := v.Int16(); version != consumerValue {
		return fmt.Errorf("value of kind %d has version %d, and this program knows only %d", p.Kind, version, consumerValue)
	}
	var err error
	switch p.Kind {
	case partEpoch:
		epoch := v.Int32()
		err = readTags(&v, func(tag uint32, field *kbin.Reader) {
			if tag == tagMetadataHash {
				g.metadata = uint64(field.Int64())
			}
		})
		g.epoch, g.since = epoch, time.UnixMilli(r.Timestamp)
	case partTargetEpoch:
		g.assignmentEpoch = v.Int32()
		err = readTags(&v, nil)
	case partMember:
		err = g.member(p.Name).read(&v)
	case partTarget:
		g.target[p.Name] = readPartitions(&v)
		err = readTags(&v, nil)
	case partCurrent:
		m := g.member(p.Name)
		m.epoch, m.previous, m.state = v.Int32(), v.Int32(), memberState(v.Int8())
		m.assigned, m.revoking = readPartitions(&v), readPartitions(&v)
		err = readTags(&v, nil)
	case partPattern:
		topics, _, at := readStrings(&v), v.Int64(), v.Int64()
		g.patterns[p.Name] = pattern{topics: topics, at: time.UnixMilli(at)} // versions are counted anew at each start
		err = readTags(&v, nil)
	case partPartitions:
		return nil
	}
	if err != nil {
		return fmt.Errorf("value of kind %d: %w", p.Kind, err)
	}
	return nil
}

// member returns a member that a record names.
func (g *Consumer) member(id string) *consumerMember {
	if g.members[id] == nil {
		g.members[id] = &consumerMember{id: id, standing: standing{state: stable}}
	}
	return g.members[id]
}

func (g *Consumer) unsay(p Part) {
	switch p.Kind {
	case partMember:
		delete(g.members, p.Name)
	case partTarget:
		delete(g.target, p.Name)
	case partCurrent:
		if m := g.members[p.Name]; m != nil {
			m.standing = standing{state: stable}
		}
	case partPattern:
		delete(g.patterns, p.Name)
	case partEpoch:
		g.epoch, g.metadata = 0, 0
	case partTargetEpoch:
		g.assignmentEpoch = 0
	}
}

func (m *consumerMember) read(v *kbin.Reader) error {
	str := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	m.instanceID, m.rackID = str(v.CompactNullableString()), str(v.CompactNullableString())
	m.clientID, m.clientHost = v.CompactString(), v.CompactString()
	m.topics = sortedSet(readStrings(v))
	m.regex = str(v.CompactNullableString())
	m.rebalance = time.Duration(v.Int32()) * time.Millisecond
	m.assignor = str(v.CompactNullableString())
	m.classic = nil
	var inner error
	err := readTags(v, func(tag uint32, f *kbin.Reader) {
		if tag != tagClassicMember || f.Int8() < 0 {
			return
		}
		c := &classicMember{session: time.Duration(f.Int32()) * time.Millisecond}
		for range f.CompactArrayLen() {
			if !f.Ok() {
				break
			}
			p := Protocol{Name: f.CompactString(), Metadata: slices.Clone(f.CompactBytes())}
			inner = errors.Join(inner, readTags(f, nil))
			c.protocols = append(c.protocols, p)
		}
		inner = errors.Join(inner, readTags(f, nil))
		if len(c.protocols) == 0 {
			inner = errValue
		}
		m.classic = c
	})
	return errors.Join(err, inner)
}

func readStrings(v *kbin.Reader) []string {
	var all []string
	for range max(0, v.CompactArrayLen()) {
		if !v.Ok() {
			return nil
		}
		all = append(all, v.CompactString())
	}
	return all
}

func readPartitions(v *kbin.Reader) Assignment {
	all := map[TopicID][]int32{}
	for range max(0, v.CompactArrayLen()) {
		id := v.Uuid()
		for range max(0, v.CompactArrayLen()) {
			if !v.Ok() {
				return nil
			}
			all[id] = append(all[id], v.Int32())
		}
		if readTags(v, nil) != nil {
			return nil
		}
	}
	return AssignmentOf(all)
}

// readTags reads the tagged fields that end a struct. Those that this program
// does not know are passed over: that is what they are for (KIP-915).
func readTags(v *kbin.Reader, known func(tag uint32, field *kbin.Reader)) error {
	for range v.Uvarint() {
		tag, size := v.Uvarint(), v.Uvarint()
		if !v.Ok() || int64(size) > int64(len(v.Src)) {
			return errValue
		}
		field := kbin.Reader{Src: v.Span(int(size))}
		if known != nil {
			known(tag, &field)
			if !field.Ok() {
				return errValue
			}
		}
	}
	if !v.Ok() {
		return errValue
	}
	return nil
}

// loaded makes a group that was read one that goes on. Its members have a session
// from now on to show themselves, and those that must give partitions up the time
// for that.
func (g *Consumer) loaded(now time.Time) {
	g.owners, g.static = map[TopicID]map[int32]string{}, map[string]string{}
	for _, m := range g.ordered() {
		// What two have after a fault that was mended by hand, the first has.
		mine := func(id TopicID, p int32) bool {
			owner, taken := g.owners[id][p]
			return !taken || owner == m.id
		}
		m.assigned, m.revoking = m.assigned.keep(mine), m.revoking.keep(mine)
		g.own(m)
		if m.instanceID != "" {
			g.static[m.instanceID] = m.id
		}
		m.deadline, m.revokeDeadline = now.Add(m.session(g.rules)), time.Time{}
		if m.state == unrevoked && m.classic == nil {
			m.revokeDeadline = now.Add(m.rebalance)
		}
		if m.state < stable || m.state > unreleased {
			// Of a later version: the member begins anew.
			m.state, m.epoch, m.previous = stable, 0, 0
		}
	}
	maps.DeleteFunc(g.target, func(id string, _ Assignment) bool { return g.members[id] == nil })
}
