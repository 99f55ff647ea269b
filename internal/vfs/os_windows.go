package vfs

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/windows"
)

// reserve does nothing: the zeros that follow take the blocks.
func reserve(*os.File, int64, int64) error { return nil }

func dataSync(f *os.File) error { return f.Sync() }

// syncDir does nothing: NTFS journals its directories and has no call for it.
func syncDir(string) error { return nil }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL) || errors.Is(err, syscall.ENOSPC)
}
