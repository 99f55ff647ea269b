package commitlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Cleaner compacts logs, one at a time, with bounded memory and bounded load on
// the disk. It is for one goroutine.
type Cleaner struct {
	// Memory bounds the map of keys, in bytes, 24 of them for a key. What does
	// not fit takes another pass [log.cleaner.dedupe.buffer.size].
	Memory int64
	// BytesPerSecond bounds what is read and written, 0 does not
	// [log.cleaner.io.max.bytes.per.second].
	BytesPerSecond int64
}

// Cleaned is what a pass has done.
type Cleaned struct {
	// FirstDirty is how far the log has been compacted now.
	FirstDirty int64
	// Keys is how many different keys the pass looked for.
	Keys int
	// Read is the bytes of the segments that were looked through, Before and
	// After those of the segments that were replaced and of what replaced them.
	Read, Before, After int64
	// More says that the map of keys was full, or that somebody else changed the
	// log: another pass is due.
	More bool
}

// cleaning is what a log knows of its own compaction.
type cleaning struct {
	mu sync.Mutex // held by the one who compacts
	// uncleanable is why it is no use to try again, nil if it is.
	uncleanable atomic.Pointer[error]
}

// Dirt is what there is to compact, as of now, below the last stable offset for a
// high watermark.
func (l *Log) Dirt(now time.Time, highWatermark int64) Dirt {
	stable := l.StableOffset(highWatermark)
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.dirt(now, stable)
}

func (l *Log) dirt(now time.Time, stable int64) Dirt {
	st := l.state
	if !l.cfg.Compact {
		return Dirt{FirstDirty: st.FirstDirty, End: st.FirstDirty}
	}
	d := l.cfg.dirt(st.segments, st.FirstDirty, st.Start, stable, now.UnixMilli())
	if err := l.cleaning.uncleanable.Load(); err != nil {
		d.Uncleanable = *err
	}
	return d
}

// Due says whether compacting the log is worth it.
func (l *Log) Due(d Dirt) bool {
	l.writer.Lock()
	defer l.writer.Unlock()
	return d.Due(l.cfg.MinDirtyRatio)
}

// errChanged says that somebody has taken segments away that were being compacted,
// or has made the log a mirror.
var errChanged = errors.New("the log has changed meanwhile")

// Clean makes one pass over a log, whether it is due or not, below the last stable
// offset for a high watermark. What is appended meanwhile is not its business;
// readers see a segment as it was or as it is, and never miss a key's last record.
// A pass that ends early has done no harm.
//
// An error other than ctx's and ErrFull makes the log uncleanable: Dirt says so,
// reads and appends go on.
func (c *Cleaner) Clean(ctx context.Context, l *Log, now time.Time, highWatermark int64) (Cleaned, error) {
	l.cleaning.mu.Lock()
	defer l.cleaning.mu.Unlock()
	stable := l.StableOffset(highWatermark)
	p := l.beginPass(ctx, c, now, stable)
	if p == nil {
		return Cleaned{}, nil
	}
	err := p.run()
	p.done.FirstDirty = p.dirt.FirstDirty
	switch {
	case err == nil:
		return p.done, nil
	case errors.Is(err, errChanged), errors.Is(err, fs.ErrClosed):
		p.done.More = l.durable.failure() == nil
		return p.done, nil
	case ctx.Err() != nil, errors.Is(err, ErrFull):
		return p.done, err
	case l.durable.failure() != nil:
		return p.done, l.durable.failure()
	}
	err = fmt.Errorf("compact log: %w", err)
	l.cleaning.uncleanable.Store(&err)
	return p.done, err
}

// pass is one compaction under way.
type pass struct {
	l        *Log
	cfg      Config
	throttle throttle
	memory   int64
	now      time.Time
	dirt     Dirt
	segments []*segment
	aborted  []abortedTxn
	last     map[int64]lastOf
	sieve    *sieve
	reloads  int
	done     Cleaned
}

// beginPass takes what a pass needs to know; nil if there is nothing to do.
func (l *Log) beginPass(ctx context.Context, c *Cleaner, now time.Time, stable int64) *pass {
	l.writer.Lock()
	defer l.writer.Unlock()
	d := l.dirt(now, stable)
	if l.writable() != nil || l.readOnly() != nil || d.Uncleanable != nil || d.DirtyBytes == 0 {
		return nil
	}
	st := l.state
	p := &pass{l: l, cfg: l.cfg, throttle: throttle{ctx: ctx, rate: c.BytesPerSecond}, memory: c.Memory, now: now, dirt: d, segments: st.segments, last: map[int64]lastOf{}, reloads: l.reloads}
	for _, s := range st.segments {
		p.aborted = append(p.aborted, s.aborted...)
	}
	p.aborted = append(p.aborted, st.active.aborted...)
	for id, known := range st.producers.byID {
		last := lastOf{offset: -1, epoch: known.epoch}
		if n := len(known.batches); n > 0 {
			last.offset = known.batches[n-1].lastOffset
		}
		p.last[id] = last
	}
	return p
}

func (p *pass) run() error {
	keys, end, err := p.learn()
	if err != nil {
		return err
	}
	p.done.Keys = keys.count
	p.done.More = end < p.dirt.End
	upTo, _ := slices.BinarySearchFunc(p.segments, end, func(s *segment, end int64) int {
		if s.Base < end {
			return -1
		}
		return 1
	})
	p.sieve = newSieve(p.now, p.cfg.DeleteRetention, end, p.aborted, p.last, keys)
	for _, old := range group(p.segments[:upTo], p.cfg.SegmentBytes) {
		if err := p.rewrite(old); err != nil {
			return err
		}
	}
	p.dirt.FirstDirty = end
	return p.l.setFirstDirty(end, p.reloads)
}

var errMapFull = errors.New("the map of keys is full")

// learn goes through the dirty part and remembers the last offset of each key. It
// returns how far it came.
func (p *pass) learn() (keys *keyMap, end int64, err error) {
	from := p.dirt.FirstDirty
	l := learner{
		keys:  newKeyMap(p.memory, p.dirt.End-from),
		sieve: newSieve(p.now, 0, p.dirt.End, p.aborted, nil, nil),
		from:  from, end: from,
	}
	for _, seg := range p.segments {
		if seg.Base >= p.dirt.End {
			break
		}
		if seg.Next <= from {
			continue
		}
		err := p.scan(seg, l.batch)
		if errors.Is(err, errMapFull) {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		l.end = seg.Next
	}
	return l.keys, l.end, nil
}

// learner takes in batches from an offset on; end is where it has got to.
type learner struct {
	keys      *keyMap
	sieve     *sieve
	from, end int64
}

// batch returns errMapFull at the first record whose key has no room.
func (l *learner) batch(b record.Batch) error {
	if b.LastOffset() < l.from {
		return nil
	}
	var err error
	switch {
	case b.Attributes().Control():
		_, err = l.sieve.marker(b)
	case !l.sieve.data(b): // of a transaction that was not aborted
		err = l.records(b)
	}
	if err == nil {
		l.end = b.NextOffset()
	}
	return err
}

func (l *learner) records(b record.Batch) error {
	section, err := b.Section(decodeLimit)
	if err != nil {
		return err
	}
	return section.Each(func(r record.Record) error {
		if r.Key == nil || r.Offset < l.from {
			return nil
		}
		if l.keys.full() && l.keys.get(r.Key) < 0 {
			l.end = r.Offset
			return errMapFull
		}
		l.keys.put(r.Key, r.Offset)
		return nil
	})
}

// scan reads a segment's batches and checks each.
func (p *pass) scan(seg *segment, fn func(record.Batch) error) error {
	at := int64(0)
	stop, damage, err := scan(seg.file, 0, seg.Size, seg.Base, false, func(pos int64, b record.Batch) error {
		if err := p.throttle.take(pos + int64(len(b)) - at); err != nil {
			return err
		}
		at = pos + int64(len(b))
		return fn(b)
	})
	if err != nil {
		return err
	}
	if damage != nil {
		return seg.extent().damaged(stop, damage.Error())
	}
	return nil
}

// rewrite compacts neighbouring segments into one. It is left alone if nothing
// has to go.
func (p *pass) rewrite(old []*segment) (err error) {
	l := p.l
	if err := l.settleIntents(); err != nil {
		return err
	}
	base, next := old[0].Base, old[len(old)-1].Next
	name := filepath.Join(l.dir, fileName(base, logSuffix)+cleanedSuffix)
	if err := vfs.WriteNew(l.fs, name, nil); err != nil {
		return full(fmt.Errorf("compact into %s: %w", name, err))
	}
	w := &cleanWriter{p: p, a: newActive(base, l.cfg.Files.lazy(l.fs, name))}
	w.a.cleaned = true
	defer func() {
		err = errors.Join(err, w.a.file.Close())
		if err != nil || !w.used {
			err = errors.Join(err, w.discard())
		}
	}()
	kept := len(p.sieve.kept)
	var size int64
	for _, s := range old {
		size += s.Size
		w.a.lastAppend = max(w.a.lastAppend, s.LastAppend)
		if err := p.scan(s, w.add); err != nil {
			return err
		}
	}
	p.done.Read += size
	if err := w.flush(); err != nil {
		return err
	}
	if len(old) == 1 && w.changed == 0 {
		return nil
	}
	w.a.aborted = append(slices.Clone(p.sieve.kept[kept:]), p.behindEnd(old)...)
	lastAppend := w.a.lastAppend
	known, err := w.a.seal(l.fs, l.dir, cleanedSuffix)
	if err != nil {
		return err
	}
	known.Next, known.LastAppend = next, lastAppend
	if err := l.replace(old, known, w.a.aborted, p.sieve.end); err != nil {
		return err
	}
	w.used = true
	p.done.Before, p.done.After = p.done.Before+size, p.done.After+known.Size
	return nil
}

// behindEnd are the aborted transactions of segments whose markers the pass does
// not look at.
func (p *pass) behindEnd(old []*segment) (list []abortedTxn) {
	for _, s := range old {
		for _, a := range s.aborted {
			if a.last >= p.sieve.end {
				list = append(list, a)
			}
		}
	}
	return list
}

// cleanWriter writes a compacted segment.
type cleanWriter struct {
	p       *pass
	a       *active
	buf     []byte // batches that are noted and not written
	at      int64  // where they go
	changed int    // batches that went, or are others now
	used    bool
}

const cleanBuffer = 1 << 20

// add takes a batch of the old segments.
func (w *cleanWriter) add(b record.Batch) error {
	kept, err := w.p.sieve.sift(b)
	if err != nil {
		return err
	}
	if len(kept) != len(b) || len(kept) > 0 && &kept[0] != &b[0] {
		w.changed++
	}
	if kept == nil {
		return nil
	}
	if n, _ := w.a.fits([]record.Batch{kept}, 1<<31-1); n == 0 {
		return fmt.Errorf("the segment at %d does not fit one of 2 GiB any more", w.a.base)
	}
	w.buf = append(w.buf, kept...)
	w.a.note(kept, w.p.cfg.IndexInterval, w.a.lastAppend)
	if len(w.buf) >= cleanBuffer {
		return w.flush()
	}
	return nil
}

func (w *cleanWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.p.throttle.take(int64(len(w.buf))); err != nil {
		return err
	}
	if _, err := w.a.file.WriteAt(w.buf, w.at); err != nil {
		return full(fmt.Errorf("write compacted segment: %w", err))
	}
	w.at += int64(len(w.buf))
	w.a.allocated = w.at
	w.buf = w.buf[:0]
	return nil
}

// discard removes what was written.
func (w *cleanWriter) discard() error {
	for _, suffix := range []string{logSuffix, offsetSuffix, timeSuffix, abortedSuffix} {
		if err := removeFile(w.p.l.fs, w.p.l.dir, fileName(w.a.base, suffix)+cleanedSuffix); err != nil {
			return err
		}
	}
	return nil
}

// replace puts a compacted segment, whose files are synced, in the place of
// others; learned is up to where the pass knows keys. FORMAT.md goes through the
// order.
func (l *Log) replace(old []*segment, known sealed, aborted []abortedTxn, learned int64) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	st := l.state
	at := slices.Index(st.segments, old[0])
	if at < 0 || at+len(old) > len(st.segments) || !slices.Equal(st.segments[at:at+len(old)], old) || l.readOnly() != nil {
		return errChanged
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return l.fail(fmt.Errorf("sync log directory: %w", err))
	}
	cp := st.checkpoint
	cp.Sealed = slices.Replace(slices.Clone(st.Sealed), at, at+len(old), known)
	cp.Swap = &swap{Base: known.Base, Aborted: known.Aborted > 0}
	cp.Learned = max(cp.Learned, learned)
	for _, s := range old[1:] {
		cp.Drop = append(cp.Drop, s.Base)
	}
	if err := l.commit(cp); err != nil {
		return err
	}
	seg := newSegment(l.cfg.Files, l.fs, l.dir, known, aborted)
	seg.unchecked = &unchecked{} // Each batch has been checked on its way.
	if err := l.swapFiles(cp, old, func() {
		st.segments = slices.Replace(slices.Clone(st.segments), at, at+len(old), seg)
		l.publish()
	}); err != nil {
		return l.fail(err)
	}
	return l.withoutIntents()
}

// swapFiles carries out the intents of a compaction, while nobody reads, and then
// shows it to readers. Who holds a region of an old file goes on with that.
func (l *Log) swapFiles(cp checkpoint, old []*segment, show func()) error {
	l.files.Lock()
	defer l.files.Unlock()
	for _, s := range old {
		if err := s.close(); err != nil {
			return fmt.Errorf("close segment: %w", err)
		}
	}
	if err := cp.Swap.carryOut(l.fs, l.dir); err != nil {
		return err
	}
	if err := dropSegments(l.fs, l.dir, cp.Drop); err != nil {
		return err
	}
	if err := l.fs.SyncDir(l.dir); err != nil {
		return fmt.Errorf("sync log directory: %w", err)
	}
	show()
	return nil
}

// setFirstDirty notes how far a pass came, unless the log has been cut since.
func (l *Log) setFirstDirty(end int64, reloads int) error {
	l.writer.Lock()
	defer l.writer.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	if l.reloads != reloads {
		return errChanged
	}
	cp := l.state.checkpoint
	cp.FirstDirty = max(cp.FirstDirty, end)
	return l.commit(cp)
}

// throttle spreads work over time.
type throttle struct {
	ctx  context.Context //nolint:containedctx // it is that of one pass, which the throttle belongs to
	rate int64           // bytes a second, 0 is no limit
	next time.Time
}

// take waits until n more bytes may be moved.
func (t *throttle) take(n int64) error {
	now := time.Now()
	if t.rate <= 0 || !t.next.After(now) {
		t.next = now
	} else {
		timer := time.NewTimer(t.next.Sub(now))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.ctx.Done():
		}
	}
	if t.rate > 0 {
		t.next = t.next.Add(time.Duration(float64(n) / float64(t.rate) * float64(time.Second)))
	}
	return t.ctx.Err()
}
