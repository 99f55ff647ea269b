package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/internal/vfs"
)

// faulty is a listener that panics.
type faulty struct{ net.Listener }

func (faulty) Accept() (net.Conn, error) { panic("a fault") }

// TestAPartThatPanicsEndsTheBrokerInGoodOrder: Run returns an error, and the log has the
// stack.
func TestAPartThatPanicsEndsTheBrokerInGoodOrder(t *testing.T) {
	for name, spoil := range map[string]func(b *Broker){
		"flusher":    func(b *Broker) { b.flusher = nil },
		"retention":  func(b *Broker) { b.cfg.RetentionInterval = 0 },
		"compaction": func(b *Broker) { b.cfg.CleanerInterval = 0 },
		"provenance": func(b *Broker) { b.provenance = &provenance{} },
		"listener":   func(b *Broker) { l := b.listeners["plain"]; l.nl = faulty{l.nl} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log logLines
			cfg, _ := testConfig(t)
			fs := vfs.NewMem()
			cfg.FS, cfg.Log = fs, slog.New(slog.NewTextHandler(&log, nil))
			b, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			spoil(b)
			if err := b.Run(t.Context()); !guard.Is(err) || !strings.HasPrefix(err.Error(), name) {
				t.Errorf("run: %v", err)
			}
			if log.count("part of the broker panicked") != 1 || log.count("stack=") == 0 {
				t.Error("the log has no stack")
			}
			cfg.Listeners = cfg.Listeners[:1]
			if b, err = New(cfg); err != nil {
				t.Fatalf("started again: %v", err)
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestACoordinatorThatPanicsIsLedAgain: its request is refused, and nobody else notices.
func TestACoordinatorThatPanicsIsLedAgain(t *testing.T) {
	var log logLines
	b := startBroker(t, func(c *Config) {
		quietBroker(c)
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	b.makeTopic(t, "orders", 1, 1)
	b.awaitCoordinators(t)
	g := &outage{hit: "a"}
	if err := g.commit(t, b, "a", 7); err != nil {
		t.Fatal(err)
	}
	var armed atomic.Bool
	armed.Store(true)
	b.fs.SetFault(func(op vfs.Op, name string) error {
		if op == vfs.OpWrite && strings.HasSuffix(name, ".log") && armed.Swap(false) {
			panic("a fault in a coordinator")
		}
		return nil
	})
	if err := g.commit(t, b, "a", 8); !errors.Is(err, kerr.CoordinatorNotAvailable) {
		t.Fatalf("commit over a panic: %v", err)
	}
	waitUntil(t, func() bool {
		got, err := b.coordinators.groups.Offsets(t.Context(), group.FetchRequest{Group: "a", MemberEpoch: -1})
		return err == nil && len(got) == 1 && got[0].Offset.Offset == 7
	})
	if err := g.commit(t, b, "a", 9); err != nil {
		t.Errorf("commit when it is led again: %v", err)
	}
	if log.count("a fault in a coordinator") == 0 || log.count("stack=") == 0 {
		t.Error("the log has no stack")
	}
}

// TestATransactionIsEndedOverAPanic of who writes its marker.
func TestATransactionIsEndedOverAPanic(t *testing.T) {
	b := startBroker(t, quietBroker)
	b.makeTopic(t, "orders", 1, 0)
	b.awaitCoordinators(t)
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	cl := b.client(t, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("orders"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var writes atomic.Int32
	b.fs.SetFault(func(op vfs.Op, name string) error {
		if op == vfs.OpWrite && strings.HasSuffix(name, ".log") {
			if writes.Add(1) == 2 { // after the outcome, the marker
				panic("a fault in a marker")
			}
		}
		return nil
	})
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return p.LastStable() == 2 })
	if writes.Load() < 2 {
		t.Error("no panic")
	}
}
