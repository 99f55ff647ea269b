//go:build chaos && interop && unix

package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// verdict counts what a reader of the copy finds.
type verdict struct {
	compared, lost, doubled, reordered, altered, phantoms int64
}

func (v *verdict) add(o verdict) {
	v.compared, v.lost, v.doubled = v.compared+o.compared, v.lost+o.lost, v.doubled+o.doubled
	v.reordered, v.altered, v.phantoms = v.reordered+o.reordered, v.altered+o.altered, v.phantoms+o.phantoms
}

func (v verdict) wrong() int64 { return v.lost + v.doubled + v.reordered + v.altered + v.phantoms }

// seen is a record as a reader met it.
type seen struct {
	offset, number int64
	sum            uint64 // of key, value, headers, timestamp
}

// strand is one partition and its copy as two read_committed readers see them,
// each at its own pace. A record's number says which one it is; where it stood
// and what it held is compared.
type strand struct {
	verdict
	name    string
	from    []seen // of the source, not yet met in the copy: number base and on
	base    int64
	ahead   []seen // of the copy, not yet met in the source
	next    int64  // number that is due in the copy
	missing map[int64]bool
	tiles   []tile // where records were and are
	faults  []string
}

func (s *strand) fault(format string, args ...any) {
	if len(s.faults) < 5 {
		s.faults = append(s.faults, s.name+": "+fmt.Sprintf(format, args...))
	}
}

// source takes the next record of the source.
func (s *strand) source(r seen) {
	if want := s.base + int64(len(s.from)); r.number != want {
		s.fault("the source has record %d at offset %d where %d comes next", r.number, r.offset, want)
		return
	}
	s.from = append(s.from, r)
	for len(s.ahead) > 0 && s.ahead[0].number < s.base+int64(len(s.from)) {
		s.judge(s.ahead[0])
		s.ahead = s.ahead[1:]
	}
}

// copied takes the next record of the copy.
func (s *strand) copied(r seen) {
	if len(s.ahead) > 0 || r.number >= s.base+int64(len(s.from)) {
		s.ahead = append(s.ahead, r)
		return
	}
	s.judge(r)
}

func (s *strand) judge(r seen) {
	switch {
	case r.number < 0:
		s.phantoms++
		s.fault("offset %d of the copy holds a record of an aborted transaction", r.offset)
		return
	case r.number < s.next && s.missing[r.number]:
		s.reordered++
		delete(s.missing, r.number)
		s.fault("record %d comes at offset %d of the copy, after record %d", r.number, r.offset, s.next-1)
		return
	case r.number < s.next:
		s.doubled++
		s.fault("record %d comes again at offset %d of the copy", r.number, r.offset)
		return
	}
	for ; s.next < r.number; s.next++ {
		s.missing[s.next] = true
		s.fault("record %d comes at offset %d of the copy where %d is due", r.number, r.offset, s.next)
	}
	was := s.from[r.number-s.base]
	s.from, s.base = s.from[r.number-s.base+1:], r.number+1
	s.next = r.number + 1
	s.compared++
	if was.sum != r.sum {
		s.altered++
		s.fault("record %d, offset %d, is altered at offset %d of the copy", r.number, was.offset, r.offset)
	}
	s.tiles = extend(s.tiles, tile{was.offset, r.offset, 1})
}

// end counts what has not come.
func (s *strand) end() {
	s.lost = int64(len(s.missing)) + s.base + int64(len(s.from)) - s.next
	s.phantoms += int64(len(s.ahead))
	if len(s.ahead) > 0 {
		s.fault("offset %d of the copy holds record %d, which the source has not", s.ahead[0].offset, s.ahead[0].number)
	}
	if s.lost > 0 {
		s.fault("%d records are missing, the next one due is %d", s.lost, s.next)
	}
}

// mark is a moment at which something was broken: when the copy holds what was
// acknowledged then, it has recovered.
type mark struct {
	at   time.Time
	want map[string][floodPartitions]int64
}

// comparer reads both sides while they are written, by itself, from each
// cluster's own listener.
type comparer struct {
	t    *testing.T
	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup
	seed maphash.Seed

	mu      sync.Mutex
	strands map[string]*[floodPartitions]strand
	twins   map[string]*[floodPartitions]twin
	reached map[string]map[string]*[floodPartitions]int64 // by cluster: the offset that is read next
	marks   []mark                                        // that are not reached, oldest first
	waits   []time.Duration                               // of those that are
	moved   time.Time                                     // when a record was compared last
	failed  error
}

func startComparer(t *testing.T) *comparer {
	c := &comparer{t: t, seed: maphash.MakeSeed(), strands: map[string]*[floodPartitions]strand{}, twins: map[string]*[floodPartitions]twin{}, reached: map[string]map[string]*[floodPartitions]int64{}, moved: time.Now()}
	c.ctx, c.stop = context.WithCancel(context.Background())
	t.Cleanup(func() { c.stop(); c.wg.Wait() })
	for _, s := range streams {
		c.strands[s.topic], c.twins[s.topic] = new([floodPartitions]strand), new([floodPartitions]twin)
		for p := range c.strands[s.topic] {
			name := fmt.Sprintf("%s/%d", s.topic, p)
			c.strands[s.topic][p], c.twins[s.topic][p] = strand{name: name, missing: map[int64]bool{}}, twin{name: name}
		}
	}
	return c
}

func streamTopics() (names []string) {
	for _, s := range streams {
		names = append(names, s.topic)
	}
	return names
}

// read feeds one side to the strands until the comparer ends.
func (c *comparer) read(of *cluster, take func(*strand, seen)) {
	reached := map[string]*[floodPartitions]int64{}
	for _, s := range streams {
		reached[s.topic] = new([floodPartitions]int64)
	}
	c.reached[of.name] = reached
	cl := of.open(c.t, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeTopics(streamTopics()...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	c.wg.Go(func() {
		for c.ctx.Err() == nil {
			fetches := cl.PollFetches(c.ctx)
			c.mu.Lock()
			if err := fetches.Err(); err != nil && c.ctx.Err() == nil {
				c.failed = fmt.Errorf("read %s: %w", of.name, err)
			}
			for it := fetches.RecordIter(); !it.Done(); {
				r := it.Next()
				reached[r.Topic][r.Partition] = r.Offset + 1
				if r.Attrs.IsControl() { // kept to see where the log ends
					continue
				}
				s := &c.strands[r.Topic][r.Partition]
				number, err := numberOf(r)
				if err != nil {
					s.phantoms++
					s.fault("offset %d of %s: %v", r.Offset, of.name, err)
					continue
				}
				take(s, seen{r.Offset, number, c.sum(r)})
			}
			c.passMarks()
			c.mu.Unlock()
		}
	})
}

func (c *comparer) sum(r *kgo.Record) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	part := func(b []byte) {
		var size [9]byte
		if b == nil {
			size[8] = 1 // null is not empty
		}
		binary.LittleEndian.PutUint64(size[:], uint64(len(b)))
		h.Write(size[:])
		h.Write(b)
	}
	part(r.Key)
	part(r.Value)
	part(binary.LittleEndian.AppendUint64(nil, uint64(r.Timestamp.UnixMilli())))
	for _, header := range r.Headers {
		part([]byte(header.Key))
		part(header.Value)
	}
	return h.Sum64()
}

// mark notes that something is broken now.
func (c *comparer) mark(want map[string][floodPartitions]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks = append(c.marks, mark{time.Now(), want})
}

func (c *comparer) passMarks() {
	c.moved = time.Now()
	for len(c.marks) > 0 && c.has(c.marks[0].want) {
		c.waits = append(c.waits, time.Since(c.marks[0].at))
		c.marks = c.marks[1:]
	}
}

// has says whether the copy holds what is wanted. The caller holds mu.
func (c *comparer) has(want map[string][floodPartitions]int64) bool {
	for topic, counts := range want {
		for p, n := range counts {
			if c.strands[topic][p].next < n {
				return false
			}
		}
	}
	return true
}

// pending is how many marks are not reached, and how old the oldest is.
func (c *comparer) pending() (int, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.marks) == 0 {
		return 0, 0, c.failed
	}
	return len(c.marks), time.Since(c.marks[0].at), c.failed
}

// behind lists what the oldest mark that is not reached waits for, and how far both
// readers are: a copy that stands still is another matter than one, or a reader, that is
// slow.
func (c *comparer) behind() (list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.marks) == 0 {
		return nil
	}
	for topic, counts := range c.marks[0].want {
		for p, n := range counts {
			if has := c.strands[topic][p].next; has < n {
				at := ""
				for name, reached := range c.reached {
					at += fmt.Sprintf(", %s is read up to offset %d", name, reached[topic][p])
				}
				list = append(list, fmt.Sprintf("%s/%d: %d of %d records%s", topic, p, has, n, at))
			}
		}
	}
	slices.Sort(list)
	return append(list, fmt.Sprintf("a record was compared %.1f s ago", time.Since(c.moved).Seconds()))
}

// wrong is what is known to be wrong already.
func (c *comparer) wrong() (faults []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range streamTopics() {
		for p := range c.strands[topic] {
			faults = append(faults, c.strands[topic][p].faults...)
			if f := c.twins[topic][p].fault; f != "" {
				faults = append(faults, f)
			}
		}
	}
	return faults
}

// awaitEnd waits until the copy holds all that was acknowledged, or does not get
// on any more, and then until both sides are read to where they end.
func (c *comparer) awaitEnd(want map[string][floodPartitions]int64, sides ...*cluster) {
	c.t.Helper()
	limit := time.Now().Add(recovery)
	eventually(c.t, 10*recovery, "all is compared", func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.failed != nil:
			c.t.Fatal(c.failed)
		case c.has(want):
			return nil
		case time.Since(c.moved) < time.Second: // it gets on, slowly perhaps
			limit = time.Now().Add(recovery)
		case time.Now().After(limit):
			return nil // what is missing is counted
		}
		return errors.New("the copy is behind")
	})
	for _, side := range sides {
		eventually(c.t, recovery, side.name+" is read to its end", func() error { return c.atEnd(side) })
	}
}

func (c *comparer) atEnd(side *cluster) error {
	ctx, cancel := within(c.t)
	defer cancel()
	cl, err := side.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, streamTopics()...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range streamTopics() {
		for p := range int32(floodPartitions) {
			end, ok := ends.Lookup(topic, p)
			if at := c.reached[side.name][topic][p]; !ok || end.Err != nil || at < end.Offset {
				return errors.Join(fmt.Errorf("%s/%d is read up to %d of %d", topic, p, at, end.Offset), end.Err)
			}
		}
	}
	return nil
}

// finish ends the reading and counts.
func (c *comparer) finish(want map[string][floodPartitions]int64) verdict {
	c.stop()
	c.wg.Wait()
	var all verdict
	for topic, counts := range want {
		for p, n := range counts {
			s := &c.strands[topic][p]
			s.end()
			if have := s.base + int64(len(s.from)); have != n {
				s.fault("%d records are in the source, %d are acknowledged", have, n)
				all.lost += max(0, n-have)
			}
			all.add(s.verdict)
		}
	}
	for _, partitions := range c.twins {
		for p := range partitions {
			partitions[p].end()
		}
	}
	for _, fault := range c.wrong() {
		c.t.Error(fault)
	}
	return all
}

// checkLedger holds what the readers saw against what the ledger says. A copy of
// the whole source has everything in runs, markers and what was aborted too, at the
// source's offsets.
func (s *strand) checkLedger(t *testing.T, f *fold, end int64, whole bool) {
	t.Helper()
	if f == nil {
		t.Errorf("the ledger knows no copy of %s", s.name)
		return
	}
	for _, fault := range f.faults {
		t.Errorf("ledger of %s: %s", s.name, fault)
	}
	if f.next != end || f.copied+f.left != f.next {
		t.Errorf("%s ends at %d, the ledger accounts for what is below %d: %d records and %d gaps", s.name, end, f.next, f.copied, f.left)
	}
	switch want := (tile{0, 0, end}); {
	case whole && (f.copied != end || !f.holds(want)):
		t.Errorf("%s: the ledger has %d of the source's %d offsets, or not at themselves", s.name, f.copied, end)
	case !whole && f.copied != s.compared:
		t.Errorf("%s: readers see %d records, the ledger has %d", s.name, s.compared, f.copied)
	}
	if i := slices.IndexFunc(s.tiles, func(t tile) bool { return !f.holds(t) }); i >= 0 {
		t.Errorf("%s: %d records from offset %d on are at %d, the ledger says otherwise", s.name, s.tiles[i].count, s.tiles[i].source, s.tiles[i].destination)
	}
}
