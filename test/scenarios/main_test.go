//go:build unix

package scenarios

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// replicator is the binary that all scenarios run.
var replicator string

func TestMain(m *testing.M) {
	// Scenarios wait for timeouts most of the time: a few more than there are
	// processors keep the whole short.
	flag.Parse()
	if err := flag.Set("test.parallel", fmt.Sprint(max(5, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the binary once, as it is now.
func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "waybill-scenarios-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	replicator = filepath.Join(dir, "replicator")
	if out, err := exec.Command("go", "build", "-o", replicator, "github.com/waybillhq/waybill/cmd/replicator").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the replicator: %w\n%s", err, out)
	}
	return m.Run(), nil
}
