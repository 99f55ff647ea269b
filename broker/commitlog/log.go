package commitlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillhq/waybill/internal/vfs"
)

// Log is one partition's log. It is safe for concurrent use.
type Log struct {
	fs  vfs.FS
	dir string

	writer sync.Mutex // held by whoever changes the log
	cfg    Config     // guarded by writer
	state  *state     // guarded by writer
	// recovered is what the last reload had to do; guarded by writer.
	recovered Recovery
	// reloads grows when the log is cut; guarded by writer.
	reloads int
	// stale says that the checkpoint on disk has intents that were carried out;
	// guarded by writer.
	stale bool
	// settled is what Close wrote, or Open found written; guarded by writer.
	settled durablePoint

	// syncing has room for one: who puts something in may sync, and write the
	// recovery point.
	syncing  chan struct{}
	recovery *recoveryPoint
	durable  durability

	// files is held for reading while segment files are in use, and for writing
	// to close or cut them.
	files    sync.RWMutex
	released bool // the files are closed; guarded by files

	view      atomic.Pointer[view]
	syncs     atomic.Pointer[SyncGate]
	health    health
	flush     flushing
	cleaning  cleaning
	watermark atomic.Int64 // highest high watermark that a caller named
}

// Open opens the log in dir, which it makes if it is not there, and recovers it
// after a crash. It returns a *CorruptError, and no log, when durable data is
// damaged.
func Open(fs vfs.FS, dir string, cfg Config) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &Log{fs: fs, dir: dir, cfg: cfg, syncing: make(chan struct{}, 1)}
	l.apply(cfg)
	if err := l.reload(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	return l, nil
}

// reload reads the directory and begins anew with what is there. No file is open,
// and the caller holds every lock, or is Open.
func (l *Log) reload() error {
	st, recovery, did, err := load(l.fs, l.dir, l.cfg)
	if err != nil {
		return err
	}
	l.recovered = did
	l.reloads++
	l.stale = false
	l.settled = durablePoint{}
	if did == (Recovery{}) {
		l.settled = durablePoint{st.active.base, st.active.size}
	}
	l.state, l.recovery, l.released = st, recovery, false
	l.view.Store(st.view())
	l.durable.reset(st.active.next)
	l.flush.promised.Store(0)
	return nil
}

// Close makes the log durable and releases its files. A log that is offline is
// only released. Calls in flight, and later ones, return ErrClosed.
func (l *Log) Close() error {
	err := l.close()
	// A compaction finds its files closed and gives up.
	l.cleaning.mu.Lock()
	l.cleaning.mu.Unlock() //nolint:staticcheck // only to wait
	return err
}

func (l *Log) close() error {
	l.writer.Lock()
	defer l.writer.Unlock()
	l.syncing <- struct{}{}
	defer func() { <-l.syncing }()
	if errors.Is(l.durable.failure(), ErrClosed) {
		return ErrClosed
	}
	var err error
	if l.durable.failure() == nil {
		err = l.settle()
	}
	l.durable.fail(ErrClosed)
	l.files.Lock()
	defer l.files.Unlock()
	if cerr := l.closeFiles(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// settle writes what makes the next Open quick and exact.
func (l *Log) settle() error {
	st := l.state
	if l.settled == (durablePoint{st.active.base, st.active.size}) && st.active.allocated == st.active.size {
		return nil // Nothing was appended since Open.
	}
	if err := st.active.trim(); err != nil {
		return err
	}
	l.durable.advance(st.active.next)
	if err := l.recovery.lower(durablePoint{st.active.base, st.active.size}); err != nil {
		return err
	}
	if err := full(l.describe()); err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	return nil // Without room nothing is lost but time at the next start.
}

// describe writes down what a start would have to read otherwise.
func (l *Log) describe() error {
	st := l.state
	end := st.active.next
	if err := vfs.WriteFile(l.fs, filepath.Join(l.dir, fileName(end, snapshotSuffix)), st.producers.encode(end)); err != nil {
		return err
	}
	if st.active.size == 0 {
		return nil
	}
	// Nobody appends any more: what seals a segment describes it as it is.
	st.active.indexTime()
	known, err := st.active.writeIndexes(l.fs, l.dir, "")
	if err != nil {
		return err
	}
	cp := st.checkpoint
	cp.ActiveSince, cp.Known = st.active.since, nil
	if known.Size > l.cfg.knownBytes {
		cp.Known = &known
	}
	if cp.ActiveSince == st.ActiveSince && cp.Known == nil && st.Known == nil {
		return nil
	}
	st.checkpoint = cp
	return writeCheckpoint(l.fs, l.dir, cp)
}

func (l *Log) closeFiles() error {
	if l.released {
		return nil
	}
	l.released = true
	errs := []error{closeAll(l.state.active.file, l.recovery.file)}
	for _, s := range l.state.segments {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// writable says why nothing may be written, or nil. The caller holds writer.
func (l *Log) writable() error { return l.durable.failure() }

// publish shows readers what the writer has done.
func (l *Log) publish() { l.view.Store(l.state.view()) }

// StartOffset is the first offset that may be read.
func (l *Log) StartOffset() int64 { return l.view.Load().start }

// EndOffset is the offset that the next record gets.
func (l *Log) EndOffset() int64 { return l.view.Load().end() }

// DurableOffset is the offset below which everything is on disk.
func (l *Log) DurableOffset() int64 { return l.durable.offset() }

// StableOffset is the last stable offset for a high watermark: the first offset
// of a transaction that is open, or whose marker is not below the watermark, and
// at most the watermark.
func (l *Log) StableOffset(highWatermark int64) int64 {
	v := l.view.Load()
	l.noteWatermark(highWatermark)
	return max(v.txns.stable(highWatermark), min(v.start, highWatermark))
}

// noteWatermark remembers how far transactions are settled, so that those below
// can be forgotten.
func (l *Log) noteWatermark(highWatermark int64) {
	for {
		old := l.watermark.Load()
		if highWatermark <= old || l.watermark.CompareAndSwap(old, highWatermark) {
			return
		}
	}
}

// Size is the bytes of all segments, without what is preallocated.
func (l *Log) Size() int64 { return l.view.Load().size() }

// Aborted returns the aborted transactions that overlap [from, upTo), sorted by
// their first offset.
func (l *Log) Aborted(from, upTo int64) []AbortedTxn {
	v := l.view.Load()
	var lists [][]abortedTxn
	for i := v.segmentOf(from); i < len(v.segments); i++ {
		lists = append(lists, v.segments[i].aborted)
	}
	return overlapping(append(lists, v.aborted), from, upTo)
}

// LatestEpoch is the latest leader epoch, -1 if there is none.
func (l *Log) LatestEpoch() int32 { return l.view.Load().epochs.latest() }

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch not above the one
// asked for, and the offset where it ends; both -1 if the log cannot tell
// (KIP-101, KIP-279).
func (l *Log) EpochEnd(epoch int32) (found int32, end int64) {
	v := l.view.Load()
	return v.epochs.end(epoch, v.start, v.end())
}

// EpochAt is the leader epoch of the record at an offset; -1 if the log does not
// have it.
func (l *Log) EpochAt(offset int64) int32 {
	v := l.view.Load()
	if offset < v.start || offset >= v.end() {
		return -1
	}
	return v.epochs.at(offset)
}

// Recovered is what Open had to do, for its caller to log.
func (l *Log) Recovered() Recovery {
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.recovered
}

// Producers is the state of every producer, sorted by id.
func (l *Log) Producers() []ProducerState {
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.state.producers.states()
}

// HighestProducerID is that of the producers that the log knows and that count, -1 if
// there are none.
func (l *Log) HighestProducerID(counts func(id int64) bool) int64 {
	l.writer.Lock()
	defer l.writer.Unlock()
	highest := int64(-1)
	for id := range l.state.producers.byID {
		if id > highest && counts(id) {
			highest = id
		}
	}
	return highest
}

// OpenTransactions are the transactions without a marker, by first offset.
func (l *Log) OpenTransactions() []OpenTxn {
	l.writer.Lock()
	defer l.writer.Unlock()
	return l.state.producers.openTransactions()
}

// SetConfig replaces the settings; they apply from the next append on. A stricter
// flush policy makes durable first what the laxer one has let be acknowledged.
func (l *Log) SetConfig(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configure log: %w", err)
	}
	l.writer.Lock()
	defer l.writer.Unlock()
	if cfg.durable() && l.flush.lax() && l.writable() == nil {
		if err := l.WaitDurable(context.Background(), l.state.active.next); err != nil {
			return fmt.Errorf("configure log: %w", err)
		}
	}
	l.cfg = cfg
	l.apply(cfg)
	l.state.producers.limit = cfg.MaxProducers
	return nil
}

// apply takes over what is read without the writer's lock.
func (l *Log) apply(cfg Config) {
	l.syncs.Store(cfg.Syncs)
	messages := cfg.FlushMessages
	if cfg.durable() {
		messages = 1
	}
	l.flush.messages.Store(messages)
	l.health.observe(cfg.Observe)
}

func nowMillis() int64 { return time.Now().UnixMilli() }
