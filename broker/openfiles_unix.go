//go:build unix

package broker

import "golang.org/x/sys/unix"

// openFiles is how many files of logs may be open while nobody uses them: half of
// what the process may have, the rest is for connections.
func openFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return minOpenFiles
	}
	return int(min(max(limit.Cur/2, minOpenFiles), maxOpenFiles))
}
