package lineage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// flushInterval bounds how much of the ledgers is read again after a crash.
const flushInterval = time.Minute

// retryInterval is how long the store waits before it tries again to write to a
// disk that is full, or has failed.
const retryInterval = time.Second

// indexBlockBytes has each file's index be one block: a look into it is one step less.
const indexBlockBytes = 256 << 10

var errDiskFull = errors.New("the disk is full; make room and start the node again")

// openStore opens a store without a write-ahead log, whose failure would end the
// process, and which a cache does not need: what a crash takes from it is read from
// the ledgers again, since positions are written with what they stand for. Flushes
// keep the order of writes.
func (x *Index) openStore() (err error) {
	defer func() {
		switch failed := recover().(type) {
		case nil:
		case *storeFailure:
			err = failed.err
		default:
			panic(failed)
		}
	}()
	fsys := x.cfg.fsys
	switch {
	case fsys != nil:
	case x.cfg.InMemory:
		fsys = vfs.NewMem()
	default:
		fsys = vfs.Default
	}
	cache := pebble.NewCache(x.cfg.CacheBytes)
	defer cache.Unref()
	options := &pebble.Options{
		Cache: cache, Logger: storeLog{x}, FormatMajorVersion: pebble.FormatNewest, DisableWAL: true,
		FS: vfs.OnDiskFull(paced{fsys, x}, func() {
			x.fail(errDiskFull)
			x.restBeforeRetry()
		}),
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			x.fail(fmt.Errorf("write to the store: %w", err))
		}},
	}
	options.Levels[0].IndexBlockSize = indexBlockBytes // and of the levels below
	db, err := pebble.Open(x.cfg.Dir, options)
	x.db = db
	x.opened.Store(err == nil)
	return err
}

func (x *Index) restBeforeRetry() {
	select {
	case <-x.closing:
	case <-time.After(retryInterval):
	}
}

// paced is a file system for a store that tries again at once, for ever, what has failed:
// once something has, it waits before each file that it makes.
type paced struct {
	vfs.FS
	x *Index
}

func (p paced) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := p.x.Err(); err != nil && !errors.Is(err, errDiskFull) {
		p.x.restBeforeRetry()
	}
	return p.FS.Create(name, category)
}

// settle empties a store of another version. What has no format is empty, or of the first.
func (x *Index) settle() error {
	want := binary.BigEndian.AppendUint16(nil, storeFormat)
	have, closer, err := x.db.Get(key(0, kindFormat))
	switch {
	case err == nil:
		same := bytes.Equal(have, want)
		if err := closer.Close(); err != nil || same {
			return err
		}
	case !errors.Is(err, pebble.ErrNotFound):
		return fmt.Errorf("read store: %w", err)
	}
	b := x.db.NewBatch()
	defer b.Close()
	err = errors.Join(b.DeleteRange([]byte{0}, bytes.Repeat([]byte{0xff}, 3), nil), b.Set(key(0, kindFormat), want, nil), b.Commit(pebble.NoSync))
	if err != nil {
		return fmt.Errorf("empty a store of another version: %w", err)
	}
	return nil
}

// flush begins to write what is in memory only, if it is time. mu is held.
func (x *Index) flush() error {
	if time.Since(x.flushed) < flushInterval {
		return nil
	}
	x.flushed = time.Now()
	if _, err := x.db.AsyncFlush(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Close writes what is in memory and closes the store. Nothing may use the Index any
// more. A store that a failed disk has stopped is left as it stands.
func (x *Index) Close() error {
	var err error
	if x.Err() == nil {
		var done <-chan struct{}
		if done, err = x.db.AsyncFlush(); err == nil {
			select {
			case <-done:
			case <-x.broken:
			}
		}
	}
	close(x.closing)
	closed := make(chan error, 1)
	go func() { closed <- x.db.Close() }()
	select {
	case e := <-closed:
		err = errors.Join(err, e)
	case <-x.stopped:
		err = errors.Join(err, x.Err())
	}
	if err != nil {
		return fmt.Errorf("close lineage index: %w", err)
	}
	return nil
}

// Err is why the index takes nothing more in, nil if it does. Queries answer from
// what it has.
func (x *Index) Err() error {
	if err := x.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fail is called from the store's own goroutines too, with its locks held.
func (x *Index) fail(err error) {
	if x.failed.CompareAndSwap(nil, &err) {
		close(x.broken)
		x.cfg.Log.Error("lineage index takes nothing more in", "err", err)
	}
}

// storeLog passes on what the store has to say.
type storeLog struct{ x *Index }

func (l storeLog) Infof(format string, args ...any) {
	if log := l.x.cfg.Log; log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("lineage store", "says", fmt.Sprintf(format, args...))
	}
}

func (l storeLog) Errorf(format string, args ...any) {
	l.x.cfg.Log.Error("lineage store", "says", fmt.Sprintf(format, args...))
}

// storeFailure is what opening a store panics with where its disk fails.
type storeFailure struct{ err error }

// Fatalf is called where the disk fails while the store writes what it consists of,
// and where the store has contradicted itself; it requires that this does not return.
// The first ends only what was under way: opening, or a goroutine of the store's own,
// which leaves no lock behind that reading needs.
func (l storeLog) Fatalf(format string, args ...any) {
	message := "lineage store: " + fmt.Sprintf(format, args...)
	for _, arg := range args {
		err, ok := arg.(error)
		if !ok || !errors.As(err, new(syscall.Errno)) {
			continue
		}
		if !l.x.opened.Load() {
			panic(&storeFailure{err})
		}
		l.x.stop()
		l.x.fail(err)
		runtime.Goexit()
	}
	panic(message)
}
