//go:build interop

package apachekafka

import (
	"os/exec"
	"runtime"
	"syscall"
)

// runChild starts cmd and reports how that went on started, then waits for its
// end. The kernel kills the child when the thread that started it ends, which is
// when this process dies: the thread is held until then.
func runChild(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Start()
	started <- err
	if err == nil {
		_ = cmd.Wait() // killed, as it should be
	}
}
