//go:build chaos && unix

package chaos

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clockVariable names the file that holds by how many seconds a node's clock is
// wrong. Only a replicator that fleetOverlay has had built looks at it.
const clockVariable = "WAYBILL_CHAOS_CLOCK"

// clockSource is a part of package time: it maps the file, so that a change shows at
// once.
const clockSource = `package time

import (
	"syscall"
	"unsafe"
)

var chaosClock = openChaosClock()

func openChaosClock() *int64 {
	path, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}
`

// rewriting is one change of a file of the replicator or of the standard library.
type rewriting struct{ file, old, with string }

// fleetOverlay makes the overlay with which the standard library's time.Now adds
// what the file says to the wall clock, and nodes take snapshots every few hundred
// entries, not thousands, so that they have some to lose within the time of a test. The
// monotonic clock goes on as it does when somebody sets the time of a machine.
func fleetOverlay(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	raftConfig, err := filepath.Abs("../../internal/raftnode/config.go")
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	files := map[string]string{filepath.Join(folder, "chaos_clock.go"): clockSource}
	for _, r := range []rewriting{
		{filepath.Join(folder, "time.go"), now, now + "\tif chaosClock != nil {\n\t\tsec += *chaosClock\n\t}\n"},
		{raftConfig, "SnapshotThreshold: 2048,", "SnapshotThreshold: 256,"},
		{raftConfig, "TrailingLogs:      4096,", "TrailingLogs:      400,"},
		{raftConfig, "SnapshotInterval:  30 * time.Second,", "SnapshotInterval:  2 * time.Second,"},
	} {
		if files[r.file] == "" {
			source, err := os.ReadFile(r.file)
			if err != nil {
				return "", err
			}
			files[r.file] = string(source)
		}
		changed := strings.Replace(files[r.file], r.old, r.with, 1)
		if changed == files[r.file] {
			return "", fmt.Errorf("%s has no %q, which this test knows how to change", r.file, r.old)
		}
		files[r.file] = changed
	}
	replace := make(map[string]string)
	for path, content := range files {
		file := filepath.Join(dir, "overlay-"+filepath.Base(path))
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return "", err
		}
		replace[path] = file
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// setClock has a node's clock be wrong by so much from now on.
func (n *node) setClock(by time.Duration) {
	n.t.Helper()
	f, err := os.OpenFile(n.clockFile(), os.O_CREATE|os.O_WRONLY, 0o600) // not truncated: it is mapped
	must(n.t, err)
	defer f.Close()
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(by/time.Second))), 0)
	must(n.t, err)
}

func (n *node) clockFile() string { return filepath.Join(n.dir, "clock") }
