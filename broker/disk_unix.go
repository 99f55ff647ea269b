//go:build linux || darwin

package broker

import "syscall"

// diskSpace is how large the disk of a directory is and how much of it we may
// still write, in bytes; -1 if it cannot be told.
func diskSpace(dir string) (total, usable int64) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return -1, -1
	}
	block := int64(s.Bsize)
	return int64(s.Blocks) * block, int64(s.Bavail) * block
}
