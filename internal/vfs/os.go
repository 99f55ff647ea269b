package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// MkdirAll makes a directory and its parents, each durable in its own parent.
func (OS) MkdirAll(dir string) error {
	var made []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, d := range made {
		if err := syncDir(filepath.Dir(d)); err != nil {
			return fmt.Errorf("sync parent of %s: %w", d, err)
		}
	}
	return nil
}

// ReadDir returns the names in a directory, sorted.
func (OS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Create makes a new file that only this user and its group may read.
func (OS) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Open opens an existing file for reading and writing.
func (OS) Open(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Private is [OS] with new files that only their owner may read.
type Private struct{ OS }

// Create makes a new file that only its owner may read.
func (Private) Create(name string) (File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// ReadOnly is [OS] with files that are opened for reading only: for who may not
// write, and must not.
type ReadOnly struct{ OS }

// Open opens an existing file for reading.
func (ReadOnly) Open(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Size is a file's length in bytes.
func (OS) Size(name string) (int64, error) {
	info, err := os.Stat(name)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Rename gives a file a new name in the same directory.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove removes a file.
func (OS) Remove(name string) error { return os.Remove(name) }

// RemoveAll removes a directory and everything in it.
func (OS) RemoveAll(dir string) error { return os.RemoveAll(dir) }

// RenameDir moves a directory. The new name is synced first: a crash may leave both.
func (OS) RenameDir(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(syncDir(filepath.Dir(to)), syncDir(filepath.Dir(from)))
}

// SyncDir makes the names in a directory durable.
func (OS) SyncDir(dir string) error { return syncDir(dir) }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

var zeros [64 << 10]byte

// Preallocate reserves the blocks and writes zeros into them. Reserving alone
// would leave unwritten extents, whose first write changes metadata again: on
// ext4 a sync after it costs as much as one after an append.
func (f osFile) Preallocate(size int64) error {
	at, err := f.Size()
	if err != nil || at >= size {
		return err
	}
	if err := reserve(f.File, at, size-at); err != nil {
		return fmt.Errorf("reserve %d bytes: %w", size-at, err)
	}
	for at < size {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
		if err != nil {
			return fmt.Errorf("write zeros: %w", err)
		}
		at += int64(n)
	}
	return nil
}

func (f osFile) DataSync() error { return dataSync(f.File) }

func removeIfPresent(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove old %s: %w", name, err)
	}
	return nil
}
