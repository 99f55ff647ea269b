package group

import (
	"cmp"
	"slices"
)

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) compare(o TopicPartition) int {
	return cmp.Or(cmp.Compare(tp.Topic, o.Topic), cmp.Compare(tp.Partition, o.Partition))
}

// Offset is how far a group has read a partition.
type Offset struct {
	TopicPartition
	Offset      int64 // of the next record to read
	LeaderEpoch int32 // of the last record that was read, -1 if not known
	Metadata    string
}

// Client is who commits, as the broker knows it.
type Client struct{ Principal, Host, ClientID, Software string }

// Commit is a change of a group's position that has become valid: at once, or
// with its transaction.
type Commit struct {
	Client   // zero when the transaction was ended by another life of the broker
	Group    string
	Previous int64 // offset before, -1 if there was none
	Offset
}

// position is an offset in the table.
type position struct {
	Offset
	committedAt int64  // milliseconds since 1970
	logOffset   int64  // of the record
	by          Client // of one that is pending
}

// offsets is what one group has committed. Where several records name one
// partition the one that stands last in the log counts, also when its
// transaction is committed later.
type offsets struct {
	committed map[TopicPartition]position
	pending   map[int64]map[TopicPartition]position // by producer id
}

func newOffsets() offsets {
	return offsets{map[TopicPartition]position{}, map[int64]map[TopicPartition]position{}}
}

func (o *offsets) empty() bool { return len(o.committed) == 0 && len(o.pending) == 0 }

// commit makes p valid and returns what it replaces, -1 if nothing, and whether
// it counts.
func (o *offsets) commit(p position) (previous int64, ok bool) {
	previous = -1
	if old, found := o.committed[p.TopicPartition]; found {
		if old.logOffset > p.logOffset {
			return -1, false
		}
		previous = old.Offset.Offset
	}
	p.by = Client{}
	o.committed[p.TopicPartition] = p
	return previous, true
}

// hold keeps p until its transaction ends.
func (o *offsets) hold(producerID int64, p position) {
	if o.pending[producerID] == nil {
		o.pending[producerID] = map[TopicPartition]position{}
	}
	o.pending[producerID][p.TopicPartition] = p
}

// end ends a producer's transaction and returns what it makes valid, sorted.
func (o *offsets) end(group string, producerID int64, commit bool) []Commit {
	held := o.pending[producerID]
	delete(o.pending, producerID)
	if !commit {
		return nil
	}
	var done []Commit
	for _, p := range held {
		if previous, ok := o.commit(p); ok {
			done = append(done, Commit{p.by, group, previous, p.Offset})
		}
	}
	slices.SortStableFunc(done, func(a, b Commit) int { return a.TopicPartition.compare(b.TopicPartition) })
	return done
}

// remove forgets a partition, whatever state it is in.
func (o *offsets) remove(tp TopicPartition) {
	delete(o.committed, tp)
	for id, held := range o.pending {
		delete(held, tp)
		if len(held) == 0 {
			delete(o.pending, id)
		}
	}
}

// before says whether all that there is of a partition stands in the log before an
// offset.
func (o *offsets) before(tp TopicPartition, end int64) bool {
	if p, ok := o.committed[tp]; ok && p.logOffset >= end {
		return false
	}
	for _, held := range o.pending {
		if p, ok := held[tp]; ok && p.logOffset >= end {
			return false
		}
	}
	return true
}

// unstable says whether an open transaction may move the partition.
func (o *offsets) unstable(tp TopicPartition) bool {
	for _, held := range o.pending {
		if _, ok := held[tp]; ok {
			return true
		}
	}
	return false
}

// partitions are those with a committed offset, sorted.
func (o *offsets) partitions() []TopicPartition {
	all := make([]TopicPartition, 0, len(o.committed))
	for tp := range o.committed {
		all = append(all, tp)
	}
	slices.SortStableFunc(all, TopicPartition.compare)
	return all
}

// all are those with a committed or a pending offset, sorted. An offset that is
// only pending has a record too, which its transaction would make valid.
func (o *offsets) all() []TopicPartition {
	all := o.partitions()
	for _, held := range o.pending {
		for tp := range held {
			all = append(all, tp)
		}
	}
	slices.SortStableFunc(all, TopicPartition.compare)
	return slices.Compact(all)
}
