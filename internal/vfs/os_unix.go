//go:build unix && !linux

package vfs

import (
	"errors"
	"os"
	"syscall"
)

// reserve does nothing: the zeros that follow take the blocks.
func reserve(*os.File, int64, int64) error { return nil }

// dataSync is a whole sync; on macOS Go asks the drive to flush its cache too.
func dataSync(f *os.File) error { return f.Sync() }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
