//go:build unix

package scenarios

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// replicator is the binary that all scenarios run.
var replicator string

func TestMain(m *testing.M) {
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
