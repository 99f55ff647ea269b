package tail

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/vfs"
	"github.com/waybillhq/waybill/test/address"
)

// startBroker runs a bundled broker without provenance of its own. Stop it and
// start another on the same files and address to restart it.
func startBroker(t *testing.T, fs *vfs.Mem, addr string) (b *broker.Broker, stop func()) {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.Provenance, cfg.AutoCreateTopics = "/data", fs, false, false
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: addr, Protocol: broker.Plaintext}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("broker: %v", err)
		}
	})
	t.Cleanup(stop)
	return b, stop
}

func dial(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// lockedMemory is a sink for a Tail that runs.
type lockedMemory struct {
	mu sync.Mutex
	memory
}

func (m *lockedMemory) Apply(pos Position, p *ledger.Page) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memory.Apply(pos, p)
}

func (m *lockedMemory) Corrupt(pos Position, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.memory.Corrupt(pos, err)
}

func (m *lockedMemory) has() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notes)
}

// TestAgainstBroker reads a real ledger: absent at first, then written by
// transactions that commit, abort and stay open, over a restart, and at last
// recreated.
func TestAgainstBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	fs := vfs.NewMem()
	addr := address.Reserve(t) // the same after the restart
	b, stop := startBroker(t, fs, addr)
	adm := kadm.NewClient(dial(t, addr))

	sink := &lockedMemory{}
	tl, err := New(Config{
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.MetadataMinAge(50*time.Millisecond))...)
		},
		Cluster: b.ClusterID(), Sinks: []Sink{sink}, Refresh: 250 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- tl.Run(running) }()
	if err := tl.CatchUp(ctx); err != nil || len(sink.has()) != 0 {
		t.Fatalf("without a ledger: %v, %q", err, sink.has())
	}
	if _, err := adm.CreateTopic(ctx, 2, 1, nil, ledger.Topic); err != nil {
		t.Fatal(err)
	}

	producer := dial(t, addr, kgo.TransactionalID("lane"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(ledger.Topic))
	chain := ledger.NewChain(ledger.WriterID{1})
	write := func(partition int32, value []byte) {
		t.Helper()
		if err := producer.ProduceSync(ctx, &kgo.Record{Partition: partition, Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	txn := func(commit kgo.TransactionEndTry, f func()) {
		t.Helper()
		if err := producer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		f()
		if err := producer.EndTransaction(ctx, commit); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when string, want ...string) {
		t.Helper()
		if err := tl.CatchUp(ctx); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got := sink.has(); !slices.Equal(got, want) {
			t.Fatalf("%s: got %q, want %q", when, got, want)
		}
	}
	txn(kgo.TryCommit, func() { write(0, chain.Encode(nil)) })
	expect("committed", "0/0 page 0")
	txn(kgo.TryAbort, func() { write(0, ledger.NewChain(ledger.WriterID{2}).Encode(nil)) })
	expect("aborted", "0/0 page 0")

	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	write(0, chain.Encode(nil))
	// Time enough to ask for the end, which may be long on a busy machine.
	for limit, waits := 300*time.Millisecond, false; !waits; limit *= 2 {
		short, done := context.WithTimeout(ctx, limit)
		err := tl.CatchUp(short)
		done()
		waits = err != nil && strings.Contains(err.Error(), "partition 0 is at offset 4 of 5")
		if !errors.Is(err, context.DeadlineExceeded) || !waits && limit > 20*time.Second {
			t.Fatalf("open transaction: got %v", err)
		}
	}
	if err := producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	expect("closed", "0/0 page 0", "0/4 page 1")

	stop()
	b, _ = startBroker(t, fs, addr)
	txn(kgo.TryCommit, func() { write(1, ledger.NewChain(ledger.WriterID{3}).Encode(nil)) })
	expect("restarted", "0/0 page 0", "0/4 page 1", "1/0 page 0")

	if _, err := adm.DeleteTopic(ctx, ledger.Topic); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 2, 1, nil, ledger.Topic); err != nil {
		t.Fatal(err)
	}
	if err := tl.CatchUp(ctx); !errors.Is(err, ErrRecreated) && !errors.Is(err, ErrMissing) {
		t.Errorf("recreated: got %v", err)
	}
	end()
	if err := <-ran; err != nil {
		t.Errorf("run: %v", err)
	}
	if b.ClusterID() != tl.State().Cluster {
		t.Errorf("got cluster %q", tl.State().Cluster)
	}
}
