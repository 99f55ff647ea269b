package offsets

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/ledger"
	ledgerfold "github.com/waybillhq/waybill/internal/ledger/fold"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// foldedWorld is a ledger, in a cluster that keeps none of its own, and a copy that
// writes it.
type foldedWorld struct {
	t      *testing.T
	dst    *side
	id     ledger.CopyID
	lane   *kgo.Client
	chain  *ledger.Chain
	copied int64
	topic  ledger.TopicID
}

func newFoldedWorld(t *testing.T) *foldedWorld {
	w := &foldedWorld{t: t, dst: startSide(t, func(c *broker.Config) { c.Provenance = false }), chain: ledger.NewChain(ledger.WriterID{1})}
	w.topic = w.dst.topic(t, ledger.Topic)
	w.id = ledger.CopyID{Source: ledger.End{Cluster: "src", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: w.dst.id, TopicID: w.dst.topic(t, "orders")}}
	w.lane = connect(t, w.seed(), kgo.TransactionalID("lane"))
	w.say(w.chain, kgo.TryCommit, &ledger.Begin{Copy: w.id, Epoch: 1, Flow: "f", Lane: "lane"})
	return w
}

func (w *foldedWorld) seed() string { return w.dst.cl.OptValue(kgo.SeedBrokers).([]string)[0] }

func (w *foldedWorld) dial(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(opts, kgo.SeedBrokers(w.seed()), kgo.MetadataMinAge(20*time.Millisecond))...)
}

// say writes a page in a transaction.
func (w *foldedWorld) say(chain *ledger.Chain, end kgo.TransactionEndTry, entries ...ledger.Entry) {
	w.t.Helper()
	err := w.lane.BeginTransaction()
	if err == nil {
		err = w.lane.ProduceSync(w.t.Context(), &kgo.Record{Topic: ledger.Topic, Value: chain.Encode(entries)}).FirstErr()
	}
	if err == nil {
		err = w.lane.EndTransaction(w.t.Context(), end)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *foldedWorld) copyOn(hops int) {
	for range hops {
		x := w.copied
		w.copied += 10
		w.say(w.chain, kgo.TryCommit, &ledger.Hop{Copy: w.id.Key(), Epoch: 1, From: x, Next: x + 10, At: time.UnixMilli(x), Runs: []ledger.Run{{Source: x, Count: 10, Destination: 2 * x, Path: ledger.Raw}}})
	}
}

// read gives maps that a reader of the ledger has made who begins now, and goes on.
func (w *foldedWorld) read() *Maps {
	w.t.Helper()
	ms := NewMaps()
	tl, err := tail.New(tail.Config{Dial: w.dial, Cluster: w.dst.id, Sinks: []tail.Sink{ms}, Refresh: 250 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- tl.Run(ctx) }()
	w.t.Cleanup(func() {
		end()
		if err := <-ran; err != nil {
			w.t.Error(err)
		}
	})
	ms.Attach(w.dst.id, tl)
	return ms
}

// fold folds the ledger partition of the copy.
func (w *foldedWorld) fold(ctx context.Context, writer byte) (deleted bool, err error) {
	log, err := tail.OpenLog(tail.LogConfig{Dial: w.dial, Cluster: w.dst.id, TopicID: w.topic})
	if err != nil {
		return false, err
	}
	defer log.Close()
	_, deleted, err = ledgerfold.Write(ctx, log, ledgerfold.Order{
		Cluster: w.dst.id, By: ledgerfold.Author{Writer: ledger.WriterID{9, writer}}, At: time.UnixMilli(1), Witness: NewWitness(w.dst.id, 0),
	})
	return deleted, err
}

// TestFoldAgainstBroker folds a ledger while a copy writes it, two at once and again and
// again. Who has read it from its beginning and who begins with the fold know the same.
func TestFoldAgainstBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w := newFoldedWorld(t)
	whole := w.read()
	for round := range byte(3) {
		w.copyOn(4)
		w.say(ledger.NewChain(ledger.WriterID{2, round}), kgo.TryAbort, &ledger.Hop{Copy: w.id.Key(), Epoch: 1, From: w.copied, Next: w.copied + 1, Gaps: []ledger.Gap{{Source: w.copied, Count: 1, Reason: ledger.Expired}}})
		w.copyOn(1)
		var deleted [2]bool
		var errs [2]error
		var wg sync.WaitGroup
		for i := range deleted {
			wg.Go(func() { deleted[i], errs[i] = w.fold(ctx, 2*round+byte(i)) })
		}
		w.copyOn(4)
		wg.Wait()
		if !deleted[0] && !deleted[1] {
			t.Fatalf("nobody has folded: %v", errors.Join(errs[:]...))
		}
		begins := w.read()
		for _, ms := range []*Maps{whole, begins} {
			if err := ms.CatchUp(ctx, w.dst.id); err != nil {
				t.Fatal(err)
			}
		}
		if at := begins.next[place{w.dst.id, 0}]; at == 0 || len(begins.Damages())+len(whole.Damages()) > 0 {
			t.Fatalf("read up to %d, damage %v, %v", at, begins.Damages(), whole.Damages())
		}
		for x := range w.copied + 1 {
			want := whole.Route(w.id.Source, w.id.Destination).Translate(x, AnyBounds)
			got := begins.Route(w.id.Source, w.id.Destination).Translate(x, AnyBounds)
			if got != want || !got.Exact || got.Offset < x {
				t.Fatalf("position %d: got %+v, want %+v", x, got, want)
			}
		}
	}
}

// TestFoldOfWhatIsNotThere: another ledger, and pages that are gone, are not folded.
func TestFoldOfWhatIsNotThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w := newFoldedWorld(t)
	w.copyOn(3)
	is := w.topic
	w.topic[0]++
	if deleted, err := w.fold(ctx, 1); deleted || !errors.Is(err, tail.ErrRecreated) {
		t.Errorf("another ledger: %v", err)
	}
	w.topic = is
	log, err := tail.OpenLog(tail.LogConfig{Dial: w.dial, Cluster: w.dst.id, TopicID: w.topic})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Delete(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if start, _, err := log.Extent(ctx); start != 2 || err != nil {
		t.Fatalf("the log begins at %d, %v", start, err)
	}
	if err := log.Read(ctx, 0, 3, func(ledger.Stored) error { return nil }); err == nil {
		t.Error("pages are gone, and they were read")
	}
	if deleted, err := w.fold(ctx, 2); deleted || !errors.As(err, new(*ledgerfold.RefusedError)) {
		t.Errorf("pages are gone: %v", err)
	}
}
