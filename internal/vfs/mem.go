package vfs

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Op names a call that [Mem] can fail.
type Op string

// The calls that [Mem] can fail.
const (
	OpCreate      Op = "create"
	OpOpen        Op = "open"
	OpRename      Op = "rename"
	OpRemove      Op = "remove"
	OpSyncDir     Op = "syncdir"
	OpRead        Op = "read"
	OpWrite       Op = "write"
	OpTruncate    Op = "truncate"
	OpPreallocate Op = "preallocate"
	OpSync        Op = "sync" // DataSync and Sync
)

// Mem is a file system in memory that can fail and crash, for tests. It knows
// what is durable: see [Mem.Crash].
type Mem struct {
	mu    sync.Mutex
	dirs  map[string]*memDir
	fault func(op Op, name string) error
	space int64 // bytes that all files may have together; negative is no limit
}

var _ FS = (*Mem)(nil)

// memDir is a directory: the names it has, those that are durable, and the
// changes between the two, in order.
type memDir struct {
	names, durable map[string]*memFile
	pending        []dirOp
}

type dirOp struct {
	name string
	file *memFile // nil removes the name
	from string   // set for a rename: this name goes away
}

func (o dirOp) apply(names map[string]*memFile) {
	if o.from != "" {
		delete(names, o.from)
	}
	if o.file == nil {
		delete(names, o.name)
		return
	}
	names[o.name] = o.file
}

// memFile is a file's content, as it reads and as it is durable, and the writes
// between the two, in order.
type memFile struct {
	data, durable []byte
	pending       []fileOp
}

// fileOp is a change of size (data is nil) or a write.
type fileOp struct {
	at   int64 // where a write begins, or the new size
	data []byte
}

// NewMem makes an empty file system.
func NewMem() *Mem { return &Mem{dirs: map[string]*memDir{}, space: -1} }

// SetSpace bounds the bytes of all files together, or removes the bound if n is
// negative. What would grow them beyond it takes what there is and fails like a
// full disk (see [IsFull]).
func (m *Mem) SetSpace(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.space = n
}

// Used is the bytes of all files together.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used()
}

func (m *Mem) used() (n int64) {
	for _, d := range m.dirs {
		for _, f := range d.names {
			n += int64(len(f.data))
		}
	}
	return n
}

// room is how far a file may grow towards size, and why not further.
func (m *Mem) room(f *memFile, name string, size int64) (int64, error) {
	have := int64(len(f.data))
	if m.space < 0 || size <= have {
		return size, nil
	}
	if left := max(m.space-m.used(), 0); size-have > left {
		return have + left, &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	return size, nil
}

// SetFault makes every call ask f first, with the base name of the file or
// directory, and fail with its error. A write that fails writes half, and a sync
// that fails makes no byte durable, then or later, like a kernel that calls lost
// pages clean; writing them again helps. nil stops that. f must not call back into m.
func (m *Mem) SetFault(f func(op Op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

// FailNext makes the n-th next call of op (1 is the next) on a file whose name
// ends in suffix fail with err, and none after it.
func (m *Mem) FailNext(op Op, suffix string, n int, err error) {
	m.SetFault(func(o Op, name string) error {
		if o != op || !strings.HasSuffix(name, suffix) {
			return nil
		}
		if n--; n == 0 {
			return err
		}
		return nil
	})
}

// Crash returns what a machine finds after losing its power now: everything that
// is durable, and of the rest what chance left. Changes of a directory and of a
// file's size survive in order, as journals keep them; of the bytes written, any
// sectors. With a nil rng nothing survives but what is durable. m is unchanged.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := NewMem()
	survived := map[*memFile]*memFile{}
	for _, dir := range slices.Sorted(maps.Keys(m.dirs)) {
		d := m.dirs[dir]
		names := maps.Clone(d.durable)
		if rng != nil {
			for _, op := range d.pending[:rng.IntN(len(d.pending)+1)] {
				op.apply(names)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			old := names[name]
			if survived[old] == nil {
				content := old.crash(rng)
				survived[old] = &memFile{data: content, durable: slices.Clone(content)}
			}
			names[name] = survived[old]
		}
		after.dirs[dir] = &memDir{names: names, durable: maps.Clone(names)}
	}
	return after
}

const sector = 512

func (f *memFile) crash(rng *rand.Rand) []byte {
	out := slices.Clone(f.durable)
	if rng == nil {
		return out
	}
	var sizes int
	for _, op := range f.pending {
		if op.data == nil {
			sizes++
		}
	}
	sizes = rng.IntN(sizes + 1)
	fate := rng.IntN(3) // of the bytes: all lost, all kept, or each sector by chance
	for _, op := range f.pending {
		if op.data == nil {
			if sizes--; sizes >= 0 {
				out = resize(out, op.at)
			}
			continue
		}
		for at := op.at; at < op.at+int64(len(op.data)); {
			next := min((at/sector+1)*sector, op.at+int64(len(op.data)))
			keep := fate == 1 || fate == 2 && rng.IntN(2) == 0
			if keep && at < int64(len(out)) {
				copy(out[at:], op.data[at-op.at:next-op.at])
			}
			at = next
		}
	}
	return out
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func (m *Mem) failing(op Op, name string) error {
	if m.fault == nil {
		return nil
	}
	if err := m.fault(op, path.Base(filepath.ToSlash(name))); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

func (m *Mem) dirOf(name string) (*memDir, string, error) {
	name = filepath.Clean(name)
	d := m.dirs[filepath.Dir(name)]
	if d == nil {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return d, filepath.Base(name), nil
}

func (d *memDir) do(op dirOp) {
	op.apply(d.names)
	d.pending = append(d.pending, op)
}

// MkdirAll makes a directory, durably.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir = filepath.Clean(dir); m.dirs[dir] == nil; dir = filepath.Dir(dir) {
		m.dirs[dir] = &memDir{names: map[string]*memFile{}, durable: map[string]*memFile{}}
	}
	return nil
}

// ReadDir returns the names of files and directories in dir, sorted.
func (m *Mem) ReadDir(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	d := m.dirs[dir]
	if d == nil {
		return nil, &fs.PathError{Op: "readdir", Path: dir, Err: fs.ErrNotExist}
	}
	names := slices.Collect(maps.Keys(d.names))
	for other := range m.dirs {
		if other != dir && filepath.Dir(other) == dir {
			names = append(names, filepath.Base(other))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Create makes a new, empty file.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpCreate, name); err != nil {
		return nil, err
	}
	d, base, err := m.dirOf(name)
	if err != nil {
		return nil, err
	}
	if d.names[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	f := &memFile{}
	d.do(dirOp{name: base, file: f})
	return &memHandle{m: m, f: f, name: name}, nil
}

// Open opens an existing file.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpOpen, name); err != nil {
		return nil, err
	}
	d, base, err := m.dirOf(name)
	if err != nil {
		return nil, err
	}
	f := d.names[base]
	if f == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &memHandle{m: m, f: f, name: name}, nil
}

// Size is a file's length in bytes.
func (m *Mem) Size(name string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.dirOf(name)
	if err != nil {
		return 0, err
	}
	f := d.names[base]
	if f == nil {
		return 0, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return int64(len(f.data)), nil
}

// Rename gives a file a new name in the same directory.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpRename, from); err != nil {
		return err
	}
	d, oldName, err := m.dirOf(from)
	if err != nil {
		return err
	}
	dest, newName, err := m.dirOf(to)
	if err != nil {
		return err
	}
	if dest != d {
		return fmt.Errorf("rename %s to another directory", from)
	}
	f := d.names[oldName]
	if f == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	d.do(dirOp{name: newName, file: f, from: oldName})
	return nil
}

// Remove removes a file.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpRemove, name); err != nil {
		return err
	}
	d, base, err := m.dirOf(name)
	if err != nil {
		return err
	}
	if d.names[base] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.do(dirOp{name: base})
	return nil
}

// RemoveAll removes a directory and everything in it, durably.
func (m *Mem) RemoveAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	for other := range m.dirs {
		if other == dir || strings.HasPrefix(other, dir+string(filepath.Separator)) {
			delete(m.dirs, other)
		}
	}
	return nil
}

// RenameDir moves a directory with everything in it, durably.
func (m *Mem) RenameDir(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpRename, from); err != nil {
		return err
	}
	from, to = filepath.Clean(from), filepath.Clean(to)
	switch {
	case m.dirs[from] == nil || m.dirs[filepath.Dir(to)] == nil:
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	case m.dirs[to] != nil:
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	for _, dir := range slices.Collect(maps.Keys(m.dirs)) {
		if rest, ok := strings.CutPrefix(dir, from); ok && (rest == "" || rest[0] == filepath.Separator) {
			m.dirs[to+rest] = m.dirs[dir]
			delete(m.dirs, dir)
		}
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.failing(OpSyncDir, dir); err != nil {
		return err
	}
	d := m.dirs[filepath.Clean(dir)]
	if d == nil {
		return &fs.PathError{Op: "syncdir", Path: dir, Err: fs.ErrNotExist}
	}
	d.durable, d.pending = maps.Clone(d.names), nil
	return nil
}

// memHandle is an open file.
type memHandle struct {
	m      *Mem
	f      *memFile
	name   string
	closed bool
}

func (h *memHandle) begin(op Op) error {
	if h.closed {
		return &fs.PathError{Op: string(op), Path: h.name, Err: fs.ErrClosed}
	}
	return h.m.failing(op, h.name)
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.begin(OpRead); err != nil {
		return 0, err
	}
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	err := h.begin(OpWrite)
	if h.closed {
		return 0, err
	}
	if err != nil {
		p = p[:len(p)/2]
	}
	if end, full := h.m.room(h.f, h.name, off+int64(len(p))); full != nil {
		p, err = p[:max(min(int64(len(p)), end-off), 0)], cmp.Or(err, full)
	}
	if len(p) == 0 {
		return 0, err
	}
	if end := off + int64(len(p)); end > int64(len(h.f.data)) {
		h.f.setSize(end)
	}
	copy(h.f.data[off:], p)
	h.f.pending = append(h.f.pending, fileOp{at: off, data: append([]byte{}, p...)})
	return len(p), err
}

func (f *memFile) setSize(size int64) {
	f.data = resize(f.data, size)
	f.pending = append(f.pending, fileOp{at: size})
}

func (h *memHandle) Size() (int64, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *memHandle) Truncate(size int64) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.begin(OpTruncate); err != nil {
		return err
	}
	h.f.setSize(size)
	return nil
}

func (h *memHandle) Preallocate(size int64) error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.begin(OpPreallocate); err != nil {
		return err
	}
	size, err := h.m.room(h.f, h.name, size)
	if size > int64(len(h.f.data)) {
		h.f.setSize(size)
	}
	return err
}

func (h *memHandle) DataSync() error { return h.Sync() }

func (h *memHandle) Sync() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	err := h.begin(OpSync)
	if h.closed {
		return err
	}
	if err != nil {
		h.f.pending = slices.DeleteFunc(h.f.pending, func(op fileOp) bool { return op.data != nil })
		return err
	}
	pending := h.f.pending
	h.f.pending = nil
	for _, op := range pending {
		if op.data == nil {
			h.f.durable = resize(h.f.durable, op.at)
			continue
		}
		if at := int64(len(h.f.durable)); op.at < at {
			copy(h.f.durable[op.at:], op.data)
		}
	}
	return nil
}

func (h *memHandle) Close() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if h.closed {
		return &fs.PathError{Op: "close", Path: h.name, Err: fs.ErrClosed}
	}
	h.closed = true
	return nil
}
