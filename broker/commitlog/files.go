package commitlog

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/waybillhq/waybill/internal/vfs"
)

// Files bounds how many files of logs are open at once. All logs of a process
// share one: a file is opened when it is used, and the one that has been idle
// longest, about, is closed for it. It is safe for concurrent use.
//
// The bound is one of idle files: those in use, and those with writes that no
// sync has covered, stay open beyond it. To close such a file could lose the news
// of a failed write.
type Files struct {
	limit int

	mu   sync.Mutex
	open []*file
	hand int // of the clock that looks for an idle one
}

// NewFiles lets about limit files be open; limit is at least 1.
func NewFiles(limit int) *Files { return &Files{limit: max(limit, 1)} }

// Open is how many files are open now.
func (p *Files) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// file is a file of a log, open only while it is used or there is room. Its pool
// may be nil: then it stays open until it is closed.
type file struct {
	pool *Files
	fs   vfs.FS
	name string
	// hint says that the file may be closed with writes that are not synced:
	// nothing rests on them.
	hint bool
	// truncated says that bytes that were there may not be any more.
	truncated atomic.Bool

	mu             sync.Mutex
	f              vfs.File // nil while it is not open
	users          int
	written        uint64 // grows with each change that has returned
	synced         uint64 // what written was when the last good sync began
	recent, closed bool
	slot           int // in pool.open
}

var _ vfs.File = (*file)(nil)

// lazy is a file that exists and is not open yet.
func (p *Files) lazy(fsys vfs.FS, name string) *file { return &file{pool: p, fs: fsys, name: name} }

// create makes a new file.
func (p *Files) create(fsys vfs.FS, name string) (*file, error) {
	made, err := fsys.Create(name)
	if err != nil {
		return nil, err
	}
	f := p.lazy(fsys, name)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened(made)
	return f, nil
}

// acquire opens the file if need be and keeps it open until release, even if it is
// closed or removed meanwhile. A file that has been closed is fs.ErrClosed.
func (f *file) acquire() (vfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, &fs.PathError{Op: "open", Path: f.name, Err: fs.ErrClosed}
	}
	if f.f == nil {
		opened, err := f.fs.Open(f.name)
		if err != nil {
			return nil, err
		}
		f.opened(opened)
	}
	f.users++
	f.recent = true
	return f.f, nil
}

func (f *file) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 && f.closed {
		_ = f.shut() // its owner has let go of it: nobody is left to tell
	}
}

// opened takes over an open file, for which another may have to go. f is locked.
func (f *file) opened(open vfs.File) {
	f.f = open
	p := f.pool
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f.slot = len(p.open)
	p.open = append(p.open, f)
	for range 2 * len(p.open) {
		if len(p.open) <= p.limit {
			return
		}
		p.hand = (p.hand + 1) % len(p.open)
		// The lock of another file is only tried: its holder may be waiting for
		// the pool.
		if v := p.open[p.hand]; v != f && v.mu.TryLock() {
			v.closeIfIdle()
			v.mu.Unlock()
		}
	}
}

// closeIfIdle closes a file that has not been used since it was last asked. Both
// locks are held.
func (f *file) closeIfIdle() {
	switch {
	case f.users > 0 || f.written != f.synced && !f.hint:
	case f.recent:
		f.recent = false
	default:
		f.pool.forget(f)
		_ = f.f.Close() // Nothing is unsynced: a close cannot lose anything.
		f.f = nil
	}
}

// forget takes a file out of the pool's list, which is locked.
func (p *Files) forget(f *file) {
	last := p.open[len(p.open)-1]
	p.open[f.slot], last.slot = last, f.slot
	p.open[len(p.open)-1] = nil
	p.open = p.open[:len(p.open)-1]
}

// shut closes what is open. f is locked.
func (f *file) shut() error {
	if f.f == nil {
		return nil
	}
	if f.pool != nil {
		f.pool.mu.Lock()
		f.pool.forget(f)
		f.pool.mu.Unlock()
	}
	open := f.f
	f.f = nil
	return open.Close()
}

// Close lets go of the file: who has acquired it may go on, others get
// fs.ErrClosed.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	if f.users > 0 {
		return nil
	}
	return f.shut()
}

// use runs do on the open file.
func (f *file) use(do func(vfs.File) error) error {
	open, err := f.acquire()
	if err != nil {
		return err
	}
	defer f.release()
	return do(open)
}

// change runs do, which changes the file.
func (f *file) change(do func(vfs.File) error) error {
	return f.use(func(open vfs.File) error {
		err := do(open)
		f.mu.Lock()
		f.written++
		f.mu.Unlock()
		return err
	})
}

// sync runs do, which makes durable what had been written when it began.
func (f *file) sync(do func(vfs.File) error) error {
	return f.use(func(open vfs.File) error {
		f.mu.Lock()
		covered := f.written
		f.mu.Unlock()
		if err := do(open); err != nil {
			return err
		}
		f.mu.Lock()
		f.synced = max(f.synced, covered)
		f.mu.Unlock()
		return nil
	})
}

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	open, err := f.acquire()
	if err != nil {
		return 0, err
	}
	defer f.release()
	return open.ReadAt(p, off)
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.change(func(open vfs.File) error {
		n, err = open.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *file) Size() (size int64, err error) {
	err = f.use(func(open vfs.File) error {
		size, err = open.Size()
		return err
	})
	return size, err
}

func (f *file) Truncate(size int64) error {
	return f.change(func(open vfs.File) error { return open.Truncate(size) })
}

func (f *file) Preallocate(size int64) error {
	return f.change(func(open vfs.File) error { return open.Preallocate(size) })
}

func (f *file) DataSync() error { return f.sync(vfs.File.DataSync) }

func (f *file) Sync() error { return f.sync(vfs.File.Sync) }

// closeAll closes files, and returns the errors of all.
func closeAll(files ...*file) error {
	errs := make([]error, 0, len(files))
	for _, f := range files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
