package commitlog

import (
	"math"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/record"
)

// Dirt is what there is to compact in a log.
type Dirt struct {
	// FirstDirty is the offset up to which compaction has been, End the one up
	// to which it may go now.
	FirstDirty, End int64
	// CleanBytes are below the first, DirtyBytes between the two.
	CleanBytes, DirtyBytes int64
	// Overdue says that something dirty is older than the longest lag.
	Overdue bool
	// Uncleanable is why this log is not compacted, nil if it is.
	Uncleanable error
}

// Ratio is the dirty part of what has been sealed.
func (d Dirt) Ratio() float64 {
	if d.DirtyBytes == 0 {
		return 0
	}
	return float64(d.DirtyBytes) / float64(d.CleanBytes+d.DirtyBytes)
}

// Due says whether a compaction is worth it.
func (d Dirt) Due(minRatio float64) bool {
	return d.Uncleanable == nil && d.DirtyBytes > 0 && (d.Overdue || d.Ratio() > minRatio)
}

// dirt decides what of a log may be compacted: what is sealed, below the last
// stable offset, and as old as the shortest lag. now is in ms.
func (c Config) dirt(segments []*segment, firstDirty, start, stable, now int64) Dirt {
	d := Dirt{FirstDirty: max(firstDirty, start)}
	d.End = d.FirstDirty
	for _, s := range segments {
		newest := s.MaxTime
		if newest < 0 {
			newest = s.LastAppend
		}
		if s.Next > stable || c.MinCompactionLag > 0 && newest > now-c.MinCompactionLag.Milliseconds() {
			break
		}
		if s.Next <= d.FirstDirty {
			d.CleanBytes += s.Size
			continue
		}
		d.DirtyBytes += s.Size
		d.End = s.Next
		d.Overdue = d.Overdue || c.mustCompact(s.FirstTime, now)
	}
	return d
}

// group joins neighbouring segments that will make one, each no larger than a
// segment may be: compaction would leave ever smaller ones otherwise.
func group(segments []*segment, limit int64) [][]*segment {
	var groups [][]*segment
	var size int64
	for _, s := range segments {
		last := len(groups) - 1
		if last >= 0 && size+s.Size <= limit && s.Next-1-groups[last][0].Base <= math.MaxInt32 {
			groups[last], size = append(groups[last], s), size+s.Size
			continue
		}
		groups, size = append(groups, []*segment{s}), s.Size
	}
	return groups
}

// lastOf is what must not be forgotten of a producer: the offset of its last
// record, -1 if it has written none in its epoch.
type lastOf struct {
	offset int64
	epoch  int16
}

// sieve decides what a compaction keeps. It sees every batch of the log from its
// beginning, in order, and knows no files. The rules are Kafka's (KIP-58,
// KIP-98, KIP-354, KIP-534):
//
//   - of each key the last record below end stays, if it is no tombstone whose
//     delete horizon has passed; records without a key go;
//   - records of aborted transactions go;
//   - a marker stays until a compaction found none of its transaction's records
//     left and the horizon that this one set has passed;
//   - the last batch of a producer stays, if need be without records, for its
//     sequence and epoch; so does the batch before end, for the log's own end.
type sieve struct {
	now, retention int64 // ms
	end            int64
	last           map[int64]lastOf // by producer id
	keys           *keyMap

	aborted   []abortedTxn // that begin below end, by first offset
	committed map[int64]bool
	open      map[int64]*abortedSeen // aborted transactions, by producer id
	// kept are those whose marker stays although records of it were seen.
	kept []abortedTxn
}

type abortedSeen struct {
	abortedTxn
	seen bool // a record of it
}

func newSieve(now time.Time, retention time.Duration, end int64, aborted []abortedTxn, last map[int64]lastOf, keys *keyMap) *sieve {
	aborted = slices.Clone(aborted)
	slices.SortStableFunc(aborted, func(a, b abortedTxn) int { return int(min(max(a.first-b.first, -1), 1)) })
	return &sieve{
		now: now.UnixMilli(), retention: retention.Milliseconds(), end: end, last: last, keys: keys,
		aborted: aborted, committed: map[int64]bool{}, open: map[int64]*abortedSeen{},
	}
}

// begin lets the aborted transactions in that have begun by an offset.
func (s *sieve) begin(offset int64) {
	for len(s.aborted) > 0 && s.aborted[0].first <= offset {
		s.open[s.aborted[0].producerID] = &abortedSeen{abortedTxn: s.aborted[0]}
		s.aborted = s.aborted[1:]
	}
}

// data says whether a batch of records belongs to an aborted transaction.
func (s *sieve) data(b record.Batch) (aborted bool) {
	if !b.Attributes().Transactional() {
		return false
	}
	s.begin(b.LastOffset())
	if txn := s.open[b.ProducerID()]; txn != nil && b.LastOffset() < txn.last {
		txn.seen = true
		return true
	}
	s.committed[b.ProducerID()] = true
	return false
}

// marker says whether a control batch ends a transaction without records.
func (s *sieve) marker(b record.Batch) (empty bool, err error) {
	s.begin(b.LastOffset())
	m, err := decodeMarker(b)
	if err == errNoMarker { //nolint:errorlint // the bare sentinel is meant
		return b.Count() == 0, nil
	}
	if err != nil {
		return false, err
	}
	id := b.ProducerID()
	if m.Commit {
		empty = !s.committed[id]
		delete(s.committed, id)
		return empty, nil
	}
	txn := s.open[id]
	delete(s.open, id)
	if txn == nil || !txn.seen {
		return true, nil
	}
	s.kept = append(s.kept, txn.abortedTxn)
	return false, nil
}

// indispensable says whether a batch has to stay even without records.
func (s *sieve) indispensable(b record.Batch) bool {
	if b.NextOffset() >= s.end {
		return true
	}
	last, ok := s.last[b.ProducerID()]
	switch {
	case !ok || b.ProducerID() < 0:
		return false
	case last.offset >= 0:
		return b.LastOffset() == last.offset
	}
	return b.Attributes().Control() && b.ProducerEpoch() == last.epoch
}

// sift returns what stays of a batch: itself, one with fewer records, or nil.
func (s *sieve) sift(b record.Batch) (record.Batch, error) {
	if b.BaseOffset() >= s.end {
		return b, nil
	}
	if b.Attributes().Control() {
		return s.siftMarker(b)
	}
	aborted := s.data(b)
	if b.Count() == 0 || aborted {
		if !s.indispensable(b) {
			return nil, nil
		}
		if b.Count() == 0 {
			return b, nil
		}
		return b.Emptied(), nil
	}
	section, err := b.Section(decodeLimit)
	if err != nil {
		return nil, err
	}
	expired := b.Attributes().DeleteHorizon() && b.BaseTimestamp() <= s.now
	var records int32
	var tombstones bool
	keep := func(r record.Record) bool {
		switch {
		case r.Offset >= s.end:
			return true
		case r.Key == nil || s.keys.get(r.Key) > r.Offset:
			return false
		}
		return r.Value != nil || !expired
	}
	if err := section.Each(func(r record.Record) error {
		if keep(r) {
			records++
			tombstones = tombstones || r.Value == nil && r.Offset < s.end
		}
		return nil
	}); err != nil {
		return nil, err
	}
	horizon := int64(record.NoHorizon)
	// A batch that goes on above end will be looked at again: its time begins then.
	if tombstones && !b.Attributes().DeleteHorizon() && b.NextOffset() <= s.end {
		horizon = s.horizon()
	}
	switch {
	case records == b.Count() && horizon == record.NoHorizon:
		return b, nil
	case records > 0:
		return section.Keep(horizon, keep)
	case s.indispensable(b):
		return b.Emptied(), nil
	}
	return nil, nil
}

func (s *sieve) horizon() int64 {
	if s.retention > math.MaxInt64-s.now {
		return math.MaxInt64
	}
	return s.now + s.retention
}

func (s *sieve) siftMarker(b record.Batch) (record.Batch, error) {
	empty, err := s.marker(b)
	switch {
	case err != nil:
		return nil, err
	case b.Count() == 0:
		if s.indispensable(b) {
			return b, nil
		}
		return nil, nil
	case !empty:
		return b, nil
	case !b.Attributes().DeleteHorizon():
		section, err := b.Section(markerLimit)
		if err != nil {
			return nil, err
		}
		return section.Keep(s.horizon(), func(record.Record) bool { return true })
	case b.BaseTimestamp() > s.now:
		return b, nil
	case s.indispensable(b):
		return b.Emptied(), nil
	}
	return nil, nil
}
