package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve asks for blocks in one piece. A file system that cannot (NFS, some
// overlays) is not an error: the zeros that follow take the blocks anyway.
func reserve(f *os.File, off, n int64) error {
	err := retryInterrupted(func() error { return unix.Fallocate(int(f.Fd()), 0, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return os.NewSyscallError("fallocate", err)
}

func dataSync(f *os.File) error {
	return os.NewSyscallError("fdatasync", retryInterrupted(func() error { return unix.Fdatasync(int(f.Fd())) }))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
