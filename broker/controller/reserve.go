package controller

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/waybillhq/waybill/internal/vfs"
)

const (
	// reserveName is a file of nothing that takes as much room as the next metadata
	// file. With a full disk the metadata are written over it, in place, and it is
	// given their name: without that a broker could not start, which is counted, nor
	// delete a topic.
	reserveName = "reserve"
	// reserveStep is what the reserve is a multiple of.
	reserveStep = 64 << 10
)

// write replaces the store's file. With ErrFull the old one is in place.
func (c *Controller) write(data []byte, useReserve bool) error {
	from := c.path + ".tmp"
	err := vfs.WriteNew(c.fs, from, data)
	if vfs.IsFull(err) {
		if gone := c.fs.Remove(from); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			return fmt.Errorf("remove what has no room: %w", gone)
		}
		if !useReserve || c.reserved < int64(len(data)) {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		from = c.reserve()
		err = overwrite(c.fs, from, data)
		if vfs.IsFull(err) { // where a file system does not write in place
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
		c.reserved = 0
	}
	if err != nil {
		return err
	}
	return vfs.Replace(c.fs, from, c.path)
}

// overwrite makes data all that a file holds that is at least as long.
func overwrite(fsys vfs.FS, name string, data []byte) (err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("open reserve: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(data, 0); err != nil {
		return fmt.Errorf("write reserve: %w", err)
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return fmt.Errorf("cut reserve: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync reserve: %w", err)
	}
	return nil
}

// keepReserve sees to it that there is room for a file somewhat longer than size.
// If there is none the next update tries again.
func (c *Controller) keepReserve(size int64) {
	want := (2*size/reserveStep + 1) * reserveStep
	if c.reserved >= size && c.reserved >= want/2 {
		return
	}
	tmp := c.reserve() + ".tmp"
	if err := vfs.WriteNew(c.fs, tmp, make([]byte, want)); err != nil {
		_ = c.fs.Remove(tmp) // a part of it takes room for nothing
		return
	}
	if vfs.Replace(c.fs, tmp, c.reserve()) == nil {
		c.reserved = want
	}
}

// findReserve looks for the reserve of an earlier start.
func (c *Controller) findReserve() {
	if size, err := c.fs.Size(c.reserve()); err == nil {
		c.reserved = size
	}
}

func (c *Controller) reserve() string { return filepath.Join(filepath.Dir(c.path), reserveName) }
