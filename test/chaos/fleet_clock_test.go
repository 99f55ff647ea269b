//go:build chaos && unix

package chaos

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// clockVariable names the file that holds by how many seconds a node's clock is
// wrong. Only a replicator that clockOverlay has had built looks at it.
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

// clockOverlay makes the overlay with which the standard library's time.Now adds
// what the file says to the wall clock. The monotonic clock goes on as it does when
// somebody sets the time of a machine.
func clockOverlay(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(folder, "time.go"))
	if err != nil {
		return "", err
	}
	const before = "\tsec, nsec, mono := runtimeNow()\n"
	changed := strings.Replace(string(source), "func Now() Time {\n"+before, "func Now() Time {\n"+before+"\tif chaosClock != nil {\n\t\tsec += *chaosClock\n\t}\n", 1)
	if changed == string(source) {
		return "", errors.New("time.Now of this Go is not the one that this test knows how to change")
	}
	files := map[string]string{"time.go": changed, "chaos_clock.go": clockSource}
	replace := make(map[string]string)
	for name, content := range files {
		file := filepath.Join(dir, "overlay-"+name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(folder, name)] = file
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
