//go:build chaos && unix

package chaos

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is one child: it ends when its standard input does, which only this
// process holds open.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer
	log    string
	exited chan struct{}
	guard  *exec.Cmd // kills it, if this process ends while it is suspended
	hold   io.Closer // standard input of guard
}

func startProcess(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	return startCommand(t, dir, name, nil, append([]string{replicator}, args...))
}

// startCommand starts the replicator by a command that becomes it, with variables
// added to the environment.
func startCommand(t *testing.T, dir, name string, env, command []string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, "log"), exited: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer out.Close() // the child has its own copy
	p.cmd = exec.Command(command[0], append(command[1:], "--stop-with-stdin")...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.stdin, err = p.cmd.StdinPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() { // ends with the child
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.exited
	_ = p.stdin.Close()
	p.dismissGuard()
}

// stop asks it to end by itself, which it may take a while for.
func (p *process) stop(t *testing.T) {
	t.Helper()
	_ = p.stdin.Close()
	select {
	case <-p.exited:
	case <-time.After(40 * time.Second):
		t.Errorf("%s does not stop:\n%s", p.name, p.tail())
		p.kill()
	}
}

func (p *process) suspend(t *testing.T) {
	t.Helper()
	p.guard = exec.Command("sh", "-c", fmt.Sprintf("cat >/dev/null; kill -KILL %d", p.cmd.Process.Pid))
	var err error
	p.hold, err = p.guard.StdinPipe()
	must(t, err)
	must(t, p.guard.Start())
	must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
}

func (p *process) resume(t *testing.T) {
	t.Helper()
	p.dismissGuard()
	must(t, p.cmd.Process.Signal(syscall.SIGCONT))
}

func (p *process) dismissGuard() {
	if p.guard == nil {
		return
	}
	_ = p.guard.Process.Kill()
	_ = p.guard.Wait()
	_ = p.hold.Close()
	p.guard = nil
}

// address reads what the child writes when it listens.
func (p *process) address(t *testing.T, file, name string) string {
	t.Helper()
	var found string
	eventually(t, 30*time.Second, p.name+" listens", func() error {
		if !p.alive() {
			t.Fatalf("%s has ended:\n%s", p.name, p.tail())
		}
		content, err := os.ReadFile(file)
		for line := range strings.Lines(string(content)) {
			if n, addr, ok := strings.Cut(strings.TrimSpace(line), " "); ok && n == name {
				found = addr
			}
		}
		if err == nil && found == "" {
			err = fmt.Errorf("no address %q", name)
		}
		return err
	})
	return found
}

func (p *process) tail() string {
	const most = 6000
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// panicked says that a life of it has ended so.
func (p *process) panicked() bool { return p.panic() != "" }

// panic is how its log goes on where it has panicked, or "".
func (p *process) panic() string {
	b, _ := os.ReadFile(p.log)
	for _, word := range []string{"panic:", "fatal error:"} {
		if at := bytes.Index(b, []byte(word)); at >= 0 {
			return string(b[max(0, at-1000):min(len(b), at+4000)])
		}
	}
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check finds nothing wrong.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
	}
}
