// Package procstat tells what a running process has used, by the kernel's count
// (Linux).
package procstat

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// CPU is the processor time, of user and system, that a process has used.
func CPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// Resident is what a process has in memory now, Peak the most that it ever had,
// in MB of 10^6 bytes, without what it shares with the page cache.
func Resident(pid int) (float64, error) { return status(pid, "VmRSS:") }

// Peak is the most that [Resident] has been.
func Peak(pid int) (float64, error) { return status(pid, "VmHWM:") }

func status(pid int, key string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, errors.New("no " + key)
}

// Calls is how many reads and writes a process has asked of the kernel, of files and
// of sockets; 0 where the kernel does not count them.
func Calls(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	var n float64
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "syscr" || name == "syscw" {
			count, _ := strconv.ParseFloat(strings.TrimSpace(value), 64) // the kernel writes numbers
			n += count
		}
	}
	return n
}
