//go:build fulldisk && linux

package fulldisk

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// broker is a process of the bundled broker. It ends when its standard input does,
// which only this process holds open.
type broker struct {
	program, dir, disk string

	cmd     *exec.Cmd
	stdin   io.Closer
	exited  chan error
	addr    string // of the listener
	metrics string
}

// newBroker builds the program, and mounts the disk.
func newBroker(t *testing.T) *broker {
	t.Helper()
	dir := t.TempDir()
	b := &broker{program: filepath.Join(dir, "replicator"), dir: dir, disk: filepath.Join(dir, "disk")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", b.program, "../../cmd/replicator").CombinedOutput(); err != nil {
		t.Fatalf("build the replicator: %v\n%s", err, out)
	}
	must(t, "make the disk's directory", os.Mkdir(b.disk, 0o755))
	must(t, "mount a tmpfs (which takes root)", syscall.Mount("tmpfs", b.disk, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() {
		if err := syscall.Unmount(b.disk, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	b.start(t)
	t.Cleanup(func() { b.kill(t) })
	return b
}

// start runs the broker and returns when it answers.
func (b *broker) start(t *testing.T) {
	t.Helper()
	addresses := filepath.Join(b.dir, "addresses")
	_ = os.Remove(addresses) // of the life before, if there was one
	listen := "127.0.0.1:0"
	if b.addr != "" {
		listen = b.addr // clients know it
	}
	out, err := os.OpenFile(b.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, "open the log", err)
	defer out.Close() // the child has its own copy
	b.cmd = exec.Command(b.program, "broker", "--dir", filepath.Join(b.disk, "data"), "--listen", listen,
		"--metrics", "127.0.0.1:0", "--address-file", addresses, "--stop-with-stdin")
	b.cmd.Stdout, b.cmd.Stderr = out, out
	b.stdin, err = b.cmd.StdinPipe()
	must(t, "stdin", err)
	must(t, "start", b.cmd.Start())
	b.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(b.cmd, b.exited) // ends with the child
	await(t, "the broker's addresses", func() bool {
		b.checkAlive(t)
		text, err := os.ReadFile(addresses)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(text)) {
			name, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name == "metrics" {
				b.metrics = addr
			} else {
				b.addr = addr
			}
		}
		return b.addr != "" && b.metrics != ""
	})
}

func (b *broker) log() string { return filepath.Join(b.dir, "log") }

func (b *broker) checkAlive(t *testing.T) {
	t.Helper()
	select {
	case err := <-b.exited:
		text, _ := os.ReadFile(b.log())
		b.exited <- err
		t.Fatalf("the broker has ended: %v\n%s", err, text[max(0, len(text)-4000):])
	default:
	}
}

func (b *broker) kill(t *testing.T) {
	t.Helper()
	_ = b.cmd.Process.Kill() // it may have ended
	b.exited <- <-b.exited
	_ = b.stdin.Close()
}

// stop ends the broker in good order.
func (b *broker) stop(t *testing.T) {
	t.Helper()
	_ = b.stdin.Close()
	select {
	case err := <-b.exited:
		b.exited <- err
		must(t, "a clean stop", err)
	case <-time.After(40 * time.Second):
		t.Fatal("the broker does not stop")
	}
}

// metric is the line of a metric without labels.
func (b *broker) metric(t *testing.T, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + b.metrics + "/metrics")
	must(t, "metrics", err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, "metrics", err)
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// client is a client that gives up soon.
func (b *broker) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.addr), kgo.RetryTimeout(2 * time.Second), kgo.RecordDeliveryTimeout(2 * time.Second),
	}, opts...)...)
	must(t, "client", err)
	t.Cleanup(cl.Close)
	return cl
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(45 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 45 s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
