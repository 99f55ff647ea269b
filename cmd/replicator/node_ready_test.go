package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cmd/replicator/supervisor"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// A node that is to stop says so, to the supervisor and to whoever would send it
// calls, also where the supervisor wants no watchdog.
func TestANodeThatIsToStopSaysSo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	log := slog.New(slog.DiscardHandler)
	n := &node{fleet: newSolo(t).fleet, listener: listener, log: log, notifier: supervisor.New(log)}
	n.readiness.applied.Store(true)
	n.readiness.begun.Store(true)
	synctest.Test(t, func(t *testing.T) {
		live, end := context.WithCancel(t.Context())
		wanted, stop := context.WithCancel(live)
		ended := make(chan error, 1)
		go func() { ended <- n.announce(live, wanted) }()
		synctest.Wait() // it is at rest, whatever it waits for
		if err := n.ready(); err != nil {
			t.Errorf("not ready: %v", err)
		}
		stop()
		synctest.Wait()
		if err := n.ready(); err == nil {
			t.Error("a node that stops is ready")
		}
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitTold(t, told, "READY=1")
	waitTold(t, told, "STOPPING=1")
}

func waitTold(t *testing.T, told *net.UnixConn, state string) {
	t.Helper()
	if err := told.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buf := make([]byte, 4096); ; {
		k, err := told.Read(buf)
		if err != nil {
			t.Fatalf("%s was not told: %v", state, err)
		}
		if strings.Contains(string(buf[:k]), state) {
			return
		}
	}
}

// Bundles and looks at the node go on while its users are replaced.
func TestUsersAreReplacedWhileOthersReadTheFile(t *testing.T) {
	users := []api.User{{Name: "ops", Token: "ops-token-0123456789", Role: api.Admin}}
	n := &node{file: nodeFile{Name: "r1"}, log: slog.New(slog.DiscardHandler), users: api.NewUsers(nil), secrets: &secrets{}, clean: newCleanLog(io.Discard, nil)}
	n.inForce.Store(&n.file)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			if f := n.file; f.Name != "r1" || n.inForce.Load().Name != "r1" {
				t.Error("the file has changed")
			}
		}
	}()
	f := nodeFile{Name: "r1"}
	f.API.Users = append(f.API.Users, apiUser{Name: "ops"})
	for range 100 {
		n.reload(func() (nodeFile, []api.User, error) { return f, users, nil })
	}
	<-done
	if got := n.inForce.Load().API.Users; len(got) != 1 || got[0].Name != "ops" {
		t.Errorf("users %v", got)
	}
}

func TestReadinessOfRaft(t *testing.T) {
	for want, s := range map[string]raftnode.Status{
		"":                  {Leader: "r1", SinceContact: leaderSilence},
		"no raft leader":    {},
		"is full":           {LogFull: true}, // which is why nobody leads, if there is nobody else
		"nothing was heard": {Leader: "r1", SinceContact: leaderSilence + 1},
	} {
		if err := raftReady(s); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", s, err, want)
		}
	}
}
