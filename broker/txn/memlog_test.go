package txn

import (
	"context"
	"errors"
	"sync"

	"github.com/waybillhq/waybill/internal/record"
)

var errDisk = errors.New("disk is gone")

// memLog is a partition in memory. What is appended becomes durable at once
// unless hold is set, and then with the next change that clears it.
type memLog struct {
	mu         sync.Mutex
	batches    []record.Batch
	start, end int64
	durable    int64
	hold       bool
	fail       error
	refuse     error
	tries      int // refused ones
	crashes    int
	changed    chan struct{}
}

func newMemLog() *memLog { return &memLog{changed: make(chan struct{})} }

func (l *memLog) Append(b record.Batch) (base, next int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return 0, 0, l.fail
	}
	if l.refuse != nil {
		l.tries++
		return 0, 0, l.refuse
	}
	base = l.end
	b.SetBaseOffset(base)
	l.batches = append(l.batches, b)
	l.end = b.NextOffset()
	l.signal()
	return base, l.end, nil
}

func (l *memLog) signal() {
	if !l.hold {
		l.durable = l.end
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memLog) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	l.signal()
}

// crash loses what is not durable.
func (l *memLog) crash() {
	l.set(func() {
		for n := len(l.batches); n > 0 && l.batches[n-1].BaseOffset() >= l.durable; n-- {
			l.batches = l.batches[:n-1]
		}
		l.end, l.hold = l.durable, false
		l.crashes++
	})
}

func (l *memLog) WaitDurable(ctx context.Context, next int64) error {
	l.mu.Lock()
	life := l.crashes
	l.mu.Unlock()
	for {
		l.mu.Lock()
		durable, fail, changed := l.durable, l.fail, l.changed
		dead := l.crashes != life
		l.mu.Unlock()
		switch {
		case fail != nil:
			return fail
		case dead:
			return errDisk
		case durable >= next:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *memLog) StartOffset() int64 { l.mu.Lock(); defer l.mu.Unlock(); return l.start }
func (l *memLog) EndOffset() int64   { l.mu.Lock(); defer l.mu.Unlock(); return l.end }

func (l *memLog) Read(from int64, maxBytes int) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []byte
	for _, b := range l.batches {
		if b.NextOffset() > from && (len(out) == 0 || len(out)+len(b) <= maxBytes) {
			out = append(out, b...)
		}
	}
	return out, nil
}

func (l *memLog) DeleteBefore(offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = max(l.start, offset)
	for len(l.batches) > 0 && l.batches[0].NextOffset() <= l.start {
		l.batches = l.batches[1:]
	}
	return nil
}

// written is a marker that got to its partition.
type written struct {
	TopicPartition
	Marker
}

// memPartitions takes markers. A partition in bad answers with its error, and
// one whose gate is set waits for it.
type memPartitions struct {
	mu      sync.Mutex
	markers []written
	bad     map[TopicPartition]error
	gate    chan struct{}
}

func (p *memPartitions) WriteMarker(ctx context.Context, tp TopicPartition, m Marker) error {
	p.mu.Lock()
	gate := p.gate
	p.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.bad[tp]; err != nil {
		return err
	}
	p.markers = append(p.markers, written{tp, m})
	return nil
}

func (p *memPartitions) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *memPartitions) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.markers)
}

// counter hands out producer ids from 100 on.
type counter struct {
	mu   sync.Mutex
	next int64
}

// PassProducerID implements [ProducerIDs]: nothing is put back from a backup.
func (*counter) PassProducerID(int64) error { return nil }

func (c *counter) NextProducerID() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	return 99 + c.next, nil
}
