package scribe

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/vfs"
)

func startBroker(t *testing.T) string {
	t.Helper()
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS, cfg.Provenance = "/data", vfs.NewMem(), false
	cfg.Listeners = []broker.Listener{{Name: "client", Addr: "127.0.0.1:0", Protocol: broker.Plaintext}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Errorf("broker: %v", err)
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	<-b.Ready()
	return b.Addr("client")
}

// deaf is a network that may lose everything that is sent from now on.
type deaf struct{ on atomic.Bool }

func (d *deaf) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	return &deafConn{c, d}, err
}

type deafConn struct {
	net.Conn
	d *deaf
}

func (c *deafConn) Write(b []byte) (int, error) {
	if c.d.on.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// TestWriter writes to the ledger of a broker: chains hold, a send that hangs ends, and what
// comes after it is of other chains.
func TestWriter(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	addr, net := startBroker(t), &deaf{}
	dials := 0
	w := New(Config{Patience: 2 * time.Second, Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
		dials++
		return kgo.NewClient(append(opts, kgo.SeedBrokers(addr), kgo.Dialer(net.dial), kgo.MetadataMinAge(10*time.Millisecond))...)
	}})
	defer w.Close()
	entry := func(n byte) ledger.Entry {
		return &ledger.Progress{Place: ledger.Place{TopicID: ledger.TopicID{n}, Topic: "orders"}, Kind: ledger.Found, Group: "g"}
	}
	topicOf := func(e ledger.Entry) ledger.TopicID { return e.(*ledger.Progress).TopicID }
	if err := w.Write(ctx, []ledger.Entry{entry(1)}, topicOf); !errors.Is(err, ErrNoLedger) {
		t.Fatalf("without a ledger: %v", err)
	}
	reader, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(ledger.Topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := kadm.NewClient(reader).CreateTopic(ctx, 2, 1, nil, ledger.Topic); err != nil {
		t.Fatal(err)
	}
	write := func(n byte) {
		t.Helper()
		for {
			err := w.Write(ctx, []ledger.Entry{entry(n), entry(n + 1)}, topicOf)
			if err == nil {
				return
			}
			if !errors.Is(err, ErrNoLedger) || ctx.Err() != nil { // the client may not have heard of the topic
				t.Fatal(err)
			}
		}
	}
	write(1)
	write(3)
	writers := dials
	// The page is on its way when the network goes: the write ends all the same.
	net.on.Store(true)
	began := make(chan error, 1)
	go func() { began <- w.Write(ctx, []ledger.Entry{entry(9)}, topicOf) }()
	select {
	case err := <-began:
		if err == nil || errors.Is(err, ErrNoLedger) {
			t.Fatalf("a hung write: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("a hung write does not end")
	}
	if w.cl != nil {
		t.Error("the client of a hung write is kept, and may send it later")
	}
	net.on.Store(false)
	write(5)
	if dials != writers+1 {
		t.Errorf("%d clients, want %d", dials, writers+1)
	}

	chains, got, authors := map[int32]ledger.Chains{0: {}, 1: {}}, map[ledger.TopicID]int{}, map[ledger.WriterID]bool{}
	for len(got) < 6 {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			p, err := ledger.Decode(r.Value)
			if err == nil {
				err = chains[r.Partition].Verify(p)
			}
			if err != nil {
				t.Fatal(err)
			}
			authors[p.Writer] = true
			for _, e := range p.Entries {
				id := topicOf(e)
				if got[id]++; PartitionOf(id, 2) != r.Partition {
					t.Errorf("topic %v is in partition %d", id, r.Partition)
				}
			}
		}
	}
	want := map[ledger.TopicID]int{}
	for n := byte(1); n <= 6; n++ {
		want[ledger.TopicID{n}] = 1
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(authors) < 2 {
		t.Error("a chain goes on behind a page of which nobody knows whether it is there")
	}
}
