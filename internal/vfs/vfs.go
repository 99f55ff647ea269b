package vfs

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// FS is a file system. Errors satisfy errors.Is with [io/fs.ErrNotExist] and
// [io/fs.ErrExist] where they apply.
type FS interface {
	// MkdirAll makes a directory and its parents, and makes all of them durable.
	MkdirAll(dir string) error
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// Create makes a new, empty file for reading and writing. A file of that
	// name must not exist. The name is durable after SyncDir of its directory.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Size is the length in bytes of a file that need not be open.
	Size(name string) (int64, error)
	// Rename gives a file a new name in the same directory, in place of any file
	// that had it. After a crash before SyncDir either file may have the name,
	// never a mixture of both.
	Rename(from, to string) error
	// Remove removes a file. Open handles go on reading what it held, where the
	// system allows; so do those of a file that Rename put another in place of.
	Remove(name string) error
	// RemoveAll removes a directory and everything in it; it is no error if
	// there is none.
	RemoveAll(dir string) error
	// RenameDir moves a directory with everything in it, durably. There is nothing
	// at its new place, whose parent exists.
	RenameDir(from, to string) error
	// SyncDir makes the names in a directory durable: creations, renames and
	// removals that have returned.
	SyncDir(dir string) error
}

// File is an open file. Only what a sync has covered survives a power cut; of
// what was written since, any part may, in any order.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Size is the file's length in bytes.
	Size() (int64, error)
	// Truncate cuts the file to size bytes, or extends it with zeros.
	Truncate(size int64) error
	// Preallocate extends the file with zeros from its present length to size,
	// so that later writes there change no metadata and DataSync need not
	// write any. It is not durable before the next sync.
	Preallocate(size int64) error
	// DataSync makes every write that has returned durable, and as much of the
	// metadata as reading them back takes.
	DataSync() error
	// Sync makes every write that has returned and all metadata durable.
	Sync() error
}

// IsFull says whether err is that of a full disk or a used-up quota: nothing of
// what was there before is lost, and room may come back.
func IsFull(err error) bool { return isFull(err) }

// TryRoom says whether there is room for a file of a size: the error is one that
// [IsFull] knows if there is not. The file is made and removed again; a crash may
// leave it.
func TryRoom(fs FS, name string, size int64) error {
	if err := removeIfPresent(fs, name); err != nil {
		return err
	}
	f, err := fs.Create(name)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	err = f.Preallocate(size)
	return errors.Join(err, f.Close(), fs.Remove(name))
}

// WriteFile replaces a whole file by data, durably and atomically: after a crash
// the name holds the old content or the new. It uses name + ".tmp".
func WriteFile(fs FS, name string, data []byte) error {
	tmp := name + ".tmp"
	if err := WriteNew(fs, tmp, data); err != nil {
		return err
	}
	return Replace(fs, tmp, name)
}

// WriteFileBeside is [WriteFile] in a directory that the program does not have for
// itself: its temporary file has a name that nobody else uses, and is removed if
// the file is not replaced.
func WriteFileBeside(fs FS, name string, data []byte) error {
	tmp := name + "." + rand.Text() + ".tmp"
	err := WriteNew(fs, tmp, data)
	if err == nil {
		err = Replace(fs, tmp, name)
	}
	if err != nil {
		return errors.Join(err, removeIfPresent(fs, tmp))
	}
	return nil
}

// Replace gives a synced file the name of another in the same directory, durably.
// An error leaves it open which of the two has the name after a crash.
func Replace(fs FS, from, to string) error {
	if err := fs.Rename(from, to); err != nil {
		return fmt.Errorf("replace %s: %w", to, err)
	}
	if err := fs.SyncDir(filepath.Dir(to)); err != nil {
		return fmt.Errorf("sync directory of %s: %w", to, err)
	}
	return nil
}

// WriteNew writes and syncs a file, in place of any that has the name. The name
// itself is not durable before SyncDir, and a crash may leave a part of the data.
func WriteNew(fs FS, name string, data []byte) (err error) {
	if err := removeIfPresent(fs, name); err != nil {
		return err
	}
	f, err := fs.Create(name)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close %s: %w", name, cerr)
		}
	}()
	if len(data) > 0 {
		if _, err := f.WriteAt(data, 0); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// ReadFile reads a whole file of at most limit bytes.
func ReadFile(fs FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	defer f.Close() // Nothing was written: a close cannot lose anything.
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", name, err)
	}
	if size > limit {
		return nil, fmt.Errorf("read %s: %d bytes, at most %d are expected", name, size, limit)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); err != nil && (n < len(data) || err != io.EOF) { //nolint:errorlint // ReaderAt returns io.EOF itself
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}
