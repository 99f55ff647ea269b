package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// socket is what systemd would listen on.
func socket(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func next(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestStatesReachTheSocket(t *testing.T) {
	c := socket(t)
	n := New(slog.New(slog.DiscardHandler))
	n.Status("waits\nfor raft")
	n.Ready("node r1")
	n.Reloading()
	n.Stopping("moves its work")
	for _, want := range []string{"STATUS=waits for raft", "READY=1\nSTATUS=node r1", "RELOADING=1\nMONOTONIC_USEC=", "STOPPING=1\nSTATUS=moves its work"} {
		if got := next(t, c); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWithoutASupervisorNothingHappens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := New(slog.New(slog.DiscardHandler))
	n.Ready("x")
	if err := n.Watch(t.Context(), func(context.Context) error { panic("is asked") }); err != nil {
		t.Error(err)
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if err := n.Watch(t.Context(), nil); err == nil {
		t.Error("nonsense is taken for an interval")
	}
}

// The watchdog is fed while there are signs of life, and only then.
func TestTheWatchdogIsFedByLifeAlone(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int((30 * time.Second).Microseconds())))
	t.Setenv("WATCHDOG_PID", "")
	synctest.Test(t, func(t *testing.T) {
		var fed atomic.Int32
		n := New(slog.New(slog.DiscardHandler))
		n.send = func(state string) (bool, error) {
			if state == "WATCHDOG=1" {
				fed.Add(1)
			}
			return true, nil
		}
		var trouble atomic.Pointer[error]
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- n.Watch(ctx, func(ctx context.Context) error {
				if err := trouble.Load(); err != nil {
					return *err
				}
				return nil
			})
		}()
		const most = 30 * time.Second // what systemd waits for
		advance := func(d time.Duration) int32 {
			before := fed.Load()
			time.Sleep(d) // virtual
			synctest.Wait()
			return fed.Load() - before
		}
		if n := advance(10 * most); n < 30 {
			t.Errorf("fed %d times in ten intervals", n)
		}
		err := errors.New("raft does not answer")
		trouble.Store(&err)
		if n := advance(10 * most); n > 0 {
			t.Errorf("fed %d times without a sign of life", n)
		}
		trouble.Store(nil)
		if n := advance(most); n == 0 {
			t.Error("not fed although it lives again")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestALoopThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Progress
		time.Sleep(time.Hour)
		if err := p.Check(time.Second); err != nil {
			t.Errorf("before it has begun: %v", err)
		}
		p.Step()
		time.Sleep(time.Second)
		if err := p.Check(time.Second); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if p.Check(time.Second) == nil {
			t.Error("a loop that stands still is taken for alive")
		}
		p.Idle()
		if err := p.Check(time.Second); err != nil {
			t.Errorf("idle: %v", err)
		}
	})
}

func TestWhatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Answers
		hang, calls := make(chan struct{}), 0
		f := func() error { calls++; <-hang; return nil }
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := a.Ask(ctx, f); err == nil {
				t.Error("no answer is an answer")
			}
			cancel()
		}
		close(hang)
		if err := a.Ask(t.Context(), f); err != nil || calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
		if err := a.Ask(t.Context(), f); err != nil || calls != 2 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
}
