//go:build unix

package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker"
)

// withSocket is a broker whose socket this test has bound, as a supervisor does.
// The shell says which process that is.
func withSocket(t *testing.T, socket net.Listener, args ...string) *exec.Cmd {
	t.Helper()
	f, err := socket.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", os.Args[0], "broker"}, args...)...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{f}
	return cmd
}

// TestClientsWaitInTheSupervisorsSocket connects while no broker runs, for the
// first time and when it has been killed: whoever waits is answered by the next.
func TestClientsWaitInTheSupervisorsSocket(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	address, dir := socket.Addr().String(), t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		waiting, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer waiting.Close()
		cmd := withSocket(t, socket, "--dir", dir, "--listen", address)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		client, err := kgo.NewClient(kgo.Dialer(func(context.Context, string, string) (net.Conn, error) { return waiting, nil }), kgo.SeedBrokers(address))
		if err != nil {
			t.Fatal(err)
		}
		_, err = kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, client)
		client.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			t.Fatalf("who waited: %v\n%s", err, stderr.String())
		}
	}
}

func TestASocketWithoutAListenerIsRefused(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	out, err := withSocket(t, socket, "--dir", t.TempDir(), "--listen", "127.0.0.1:0").CombinedOutput()
	if want := "no listener has the address " + socket.Addr().String(); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v, %s; want %q", err, out, want)
	}
}

func TestSocketsFitAddresses(t *testing.T) {
	anywhere, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer anywhere.Close()
	_, port, _ := net.SplitHostPort(anywhere.Addr().String())
	for address, fits := range map[string]bool{
		"0.0.0.0:" + port:   true,
		"[::]:" + port:      true,
		":" + port:          true,
		"127.0.0.1:" + port: false,
		"0.0.0.0:1":         false,
	} {
		listeners := []broker.Listener{{Addr: "127.0.0.1:2"}, {Addr: address}}
		if got := giveSocket(listeners, anywhere); got != fits || (listeners[1].Socket != nil) != fits || listeners[0].Socket != nil {
			t.Errorf("%s: %v", address, got)
		}
		if fits && giveSocket(listeners, anywhere) {
			t.Errorf("%s: taken twice", address)
		}
	}
}
