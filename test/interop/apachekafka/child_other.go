//go:build interop && !linux

package apachekafka

import "os/exec"

// runChild starts cmd and reports how that went on started, then waits for its
// end.
func runChild(cmd *exec.Cmd, started chan<- error) {
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // killed, as it should be
	}
}
