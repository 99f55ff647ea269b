package group

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/waybillhq/waybill/internal/record"
)

var errDisk = errors.New("disk is gone")

// memLog is a partition in memory. What is appended becomes durable at once
// unless hold is set, and then with release.
type memLog struct {
	mu      sync.Mutex
	batches []record.Batch
	start   int64
	end     int64
	durable int64
	hold    bool
	fail    error
	refuse  error
	tries   int // refused ones
	changed chan struct{}
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
	if !l.hold {
		l.durable = l.end
	}
	l.signal()
	return base, l.end, nil
}

func (l *memLog) AppendMarker(m Marker) (int64, error) {
	key := binary.BigEndian.AppendUint16(nil, 0)
	kind := uint16(0)
	if m.Commit {
		kind = 1
	}
	key = binary.BigEndian.AppendUint16(key, kind)
	stamp := record.Stamp{ProducerID: m.ProducerID, ProducerEpoch: m.ProducerEpoch, BaseSequence: -1, Attributes: 0x30}
	b, err := record.Encode([]record.Record{{Key: key, Value: make([]byte, 6)}}, stamp)
	if err != nil {
		return 0, err
	}
	_, next, err := l.Append(b)
	return next, err
}

func (l *memLog) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memLog) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hold, l.durable = false, l.end
	l.signal()
}

func (l *memLog) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	l.signal()
}

func (l *memLog) WaitDurable(ctx context.Context, next int64) error {
	for {
		l.mu.Lock()
		durable, fail, changed := l.durable, l.fail, l.changed
		l.mu.Unlock()
		switch {
		case fail != nil:
			return fail
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
