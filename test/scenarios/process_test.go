//go:build unix

package scenarios

import (
	"errors"
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

// process is one child of the test.
type process struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.Closer // it ends when this is closed
	log    string    // file with what it printed, over all its lives
	exited chan struct{}
	watch  *exec.Cmd // kills it, if this process ends while it is suspended
	guard  io.Closer
}

// start runs the binary; what it prints is in dir/name.log.
func start(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, name+".log"), exited: make(chan struct{})}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer out.Close() // the child has its own copy
	p.cmd = exec.Command(replicator, append(args, "--stop-with-stdin")...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.stdin, err = p.cmd.StdinPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() { // ends with the child, for which kill waits
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends it at once, without a chance to clean up.
func (p *process) kill() {
	p.stdin.Close()
	p.cmd.Process.Kill()
	<-p.exited
	p.dismissGuard()
}

// stop lets it end by itself.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		p.kill()
		t.Fatalf("%s did not stop; its log ends:\n%s", p.name, p.tail())
	}
}

// alive says that it runs.
func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// suspend stops it from running (SIGSTOP) until resume. A suspended process
// does not see its standard input end, so a shell is at hand that kills it if
// this process goes away.
func (p *process) suspend(t *testing.T) {
	t.Helper()
	p.watch = exec.Command("sh", "-c", fmt.Sprintf("cat >/dev/null; kill -KILL %d", p.cmd.Process.Pid))
	var err error
	p.guard, err = p.watch.StdinPipe()
	must(t, err)
	must(t, p.watch.Start())
	must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
}

func (p *process) resume(t *testing.T) {
	t.Helper()
	p.dismissGuard()
	must(t, p.cmd.Process.Signal(syscall.SIGCONT))
}

func (p *process) dismissGuard() {
	if p.watch == nil {
		return
	}
	p.watch.Process.Kill()
	p.watch.Wait()
	p.guard.Close()
	p.watch = nil
}

// address reads one of the addresses that it writes when it listens.
func (p *process) address(t *testing.T, file, name string) string {
	t.Helper()
	var content string
	eventually(t, 20*time.Second, p.name+" listens", func() error {
		if !p.alive() {
			t.Fatalf("%s has ended; its log ends:\n%s", p.name, p.tail())
		}
		b, err := os.ReadFile(file)
		content = string(b)
		return err
	})
	for line := range strings.Lines(content) {
		if n, addr, ok := strings.Cut(strings.TrimSpace(line), " "); ok && n == name {
			return addr
		}
	}
	t.Fatalf("%s names no address %q: %q", p.name, name, content)
	return ""
}

// tail is the end of its log.
func (p *process) tail() string {
	const most = 4000
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// logged says whether its log has a text.
func (p *process) logged(text string) bool {
	b, _ := os.ReadFile(p.log)
	return strings.Contains(string(b), text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// slow is a wait that is worth a word.
const slow = 2 * time.Second

// eventually waits until check finds nothing wrong.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(limit)
	began := time.Now()
	for {
		err := check()
		if err == nil {
			if took := time.Since(began); took > slow {
				t.Logf("%s: took %v", what, took.Round(10*time.Millisecond))
			}
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
	}
}

// always checks again and again for a while that nothing is wrong.
func always(t *testing.T, span time.Duration, what string, check func() error) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	end := time.After(span)
	for {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case <-ticker.C:
		case <-end:
			return
		}
	}
}

var errNotYet = errors.New("not yet")
