package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// child is one process of the replicator's binary. It lives until it is killed or
// until this process ends, because its standard input is a pipe that only this
// process holds open and that it was told to watch.
type child struct {
	name string
	cmd  *exec.Cmd
	hold io.Closer // our end of its standard input
	log  string    // file with what it printed

	exited chan struct{} // closed when the process is gone
	err    error         // how it ended; read after exited
}

// start runs the replicator's binary with args, its output in dir/name.log.
func start(program, dir, name string, args ...string) (*child, error) {
	path := filepath.Join(dir, name+".log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close() // the child has its own copy
	cmd := exec.Command(program, append(args, "--"+WatchStdinFlag)...)
	cmd.Stdout, cmd.Stderr = out, out
	hold, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, hold: hold, log: path, exited: make(chan struct{})}
	go func() { // ends with the process, which kill waits for
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// WatchStdinFlag tells a server process to stop when its standard input ends.
const WatchStdinFlag = "stop-with-stdin"

// kill ends the process at once (SIGKILL) and waits until it is gone. It may be
// called again.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may be gone already
	<-c.exited
	_ = c.hold.Close() // after the process: nothing is left to hear of it
}

// awaitFile waits until the child has written a file, and returns its content.
// It fails at once when the child ends.
func (c *child) awaitFile(ctx context.Context, path string) (string, error) {
	var content string
	err := poll(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case <-c.exited:
			return false, fmt.Errorf("%s ended: %w\n%s", c.name, errors.Join(c.err), tail(c.log))
		default:
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		content = strings.TrimSpace(string(b))
		return content != "", err
	})
	if err != nil {
		return "", fmt.Errorf("wait for %s: %w", c.name, err)
	}
	return content, nil
}

// poll calls done until it says so, fails, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// tail is the end of a log, for an error message.
func tail(path string) string {
	const most = 2000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return string(b)
}
