//go:build chaos && linux

package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a network namespace with one address on the bridge of the test's own
// namespace. A process that waits for its standard input keeps it.
type host struct {
	t      *testing.T
	addr   string
	holder *exec.Cmd
	hold   io.Closer
	deafTo []string // brokers' addresses
}

// newBridge makes the network of this process's namespace, which must be one that
// was made for it.
func newBridge(t *testing.T) {
	t.Helper()
	all, err := net.Interfaces()
	must(t, err)
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			t.Fatalf("there is an interface %s: this test changes the network and wants one of its own, as make chaos-fleet gives it", i.Name)
		}
	}
	home, homes["eu"] = "10.77.0.1", "10.77.0.2"
	ip(t, "link", "set", "lo", "up")
	// With an address of its own: a bridge without one takes the lowest of its ports', which
	// changes with a new host, and the others send to the old one until they ask anew.
	ip(t, "link", "add", "br0", "address", "02:00:00:77:00:01", "type", "bridge")
	ip(t, "addr", "add", home+"/24", "dev", "br0")
	ip(t, "addr", "add", homes["eu"]+"/24", "dev", "br0")
	ip(t, "link", "set", "br0", "up")
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// newHost makes the n-th host.
func newHost(t *testing.T, n int) *host {
	t.Helper()
	h := &host{t: t, addr: fmt.Sprintf("10.77.0.%d", 10+n), holder: exec.Command("cat")}
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var err error
	h.hold, err = h.holder.StdinPipe()
	must(t, err)
	must(t, h.holder.Start())
	t.Cleanup(func() {
		_ = h.hold.Close()
		_ = h.holder.Wait()
	})
	link := fmt.Sprintf("v%d", n)
	ip(t, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(h.holder.Process.Pid))
	ip(t, "link", "set", link, "master", "br0")
	ip(t, "link", "set", link, "up")
	h.ip("link", "set", "lo", "up")
	h.ip("addr", "add", h.addr+"/24", "dev", "eth0")
	h.ip("link", "set", "eth0", "up")
	return h
}

func (h *host) address() string { return h.addr }

// host is where a node of TestFleet runs.
func (n *node) host() *host { return n.site.(*host) }

// enter is the command that runs another one on the host.
func (h *host) enter() []string {
	return []string{"nsenter", "-t", fmt.Sprint(h.holder.Process.Pid), "-n", "--"}
}

func (h *host) ip(args ...string) {
	h.t.Helper()
	command := append(h.enter(), append([]string{"ip"}, args...)...)
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		h.t.Fatalf("ip %s on %s: %v: %s", strings.Join(args, " "), h.addr, err, out)
	}
}

// mute has nothing pass that the host sends to an address. What that one sends goes
// on arriving, but without answers no connection lives long.
func (h *host) mute(to string) { h.ip("route", "replace", "blackhole", to+"/32") }

// deafen has nothing pass that a broker sends to the host.
func (h *host) deafen(from string) {
	h.t.Helper()
	ip(h.t, h.silence("add", from)...)
	h.deafTo = append(h.deafTo, from)
}

func (h *host) silence(verb, from string) []string {
	return []string{"rule", verb, "from", from, "to", h.addr, "blackhole"}
}

// heal has everything pass again that the host sends, and that brokers send to it.
func (h *host) heal() {
	h.t.Helper()
	h.ip("route", "flush", "type", "blackhole")
	for _, from := range h.deafTo {
		ip(h.t, h.silence("del", from)...)
	}
	h.deafTo = nil
}

// reaches says whether a connection from the host to an address comes about.
func (h *host) reaches(addr string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	conn, err := h.dial(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// dial connects to an address on the host, also to its loopback.
func (h *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		// The thread goes into the host's namespace and is not used for anything else
		// any more: it ends with this goroutine, which does not unlock it.
		runtime.LockOSThread()
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid))
		if err != nil {
			done <- result{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter the network of %s: %w", h.addr, err)}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
