//go:build linux || darwin

package doctor

import "golang.org/x/sys/unix"

// space is what users other than root may still write under a folder, and the size
// of its file system, in bytes.
func space(dir string) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return uint64(s.Bavail) * uint64(s.Bsize), uint64(s.Blocks) * uint64(s.Bsize), nil //nolint:unconvert // types differ between systems
}
