package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// outcomes is what producers were told about their transactions, by name.
type outcomes struct {
	mu sync.Mutex
	// told is true for a commit and false for an abort that was acknowledged.
	told map[string]bool
}

// commits is how many transactions are known to be committed.
func (o *outcomes) commits() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, committed := range o.told {
		if committed {
			n++
		}
	}
	return n
}

func (o *outcomes) note(name string, committed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told[name] = committed
}

// TestTransactionsOverPowerCuts lets producers write transactions over two
// partitions while the power is cut again and again.
// Whatever was acknowledged must stand, nothing aborted may be seen, and a
// transaction whose outcome nobody was told is there as a whole or not at all.
func TestTransactionsOverPowerCuts(t *testing.T) {
	const producers, cuts = 3, 4
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))

	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 2, 0)
	told := &outcomes{told: map[string]bool{}}
	for cut := range cuts {
		ctx, stop := context.WithCancel(t.Context())
		known := told.commits()
		var wg sync.WaitGroup
		for n := range producers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				b.writeTransactions(ctx, t, n, cut, told, rand.New(rand.NewPCG(seed, uint64(100*cut+n))))
			}()
		}
		// A life is short, and long enough for somebody to get something done.
		waitUntil(t, func() bool { return told.commits() > known })
		life := time.NewTimer(time.Duration(50+rng.IntN(150)) * time.Millisecond)
		<-life.C
		// What was acknowledged until here is on the disk that is left. What the
		// producers are told from now on does not count.
		told.mu.Lock()
		before := told.told
		told.told = map[string]bool{}
		old := b
		b = old.crash(t, rng.Uint64())
		told.mu.Unlock()
		stop()
		wg.Wait()
		old.stop()
		told = &outcomes{told: before}
	}
	// Whatever is open ends with the next producer of its id.
	for n := range producers {
		if err := transact(t, b.producer(t, fmt.Sprintf("tx%d", n)), kgo.TryAbort, values("end", 1)...); err != nil {
			t.Fatal(err)
		}
	}
	b.checkOutcomes(t, told)
}

// writeTransactions writes transactions until ctx ends: one record in each
// partition, named for the transaction.
func (b *testBroker) writeTransactions(ctx context.Context, t *testing.T, n, cut int, told *outcomes, rng *rand.Rand) {
	id := fmt.Sprintf("tx%d", n)
	opts := []kgo.Opt{
		kgo.SeedBrokers(b.Addr("plain")), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.DefaultProduceTopic("orders"), kgo.RecordRetries(5),
	}
	if (n+cut)%2 == 0 { // both protocols, also in turn on one id
		opts = append(opts, kgo.MaxVersions(firstProtocol()))
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("%d/%d/%d", n, cut, i)
		if cl.BeginTransaction() != nil {
			return
		}
		err := cl.ProduceSync(ctx, &kgo.Record{Partition: 0, Value: []byte(name)}, &kgo.Record{Partition: 1, Value: []byte(name)}).FirstErr()
		if err != nil {
			return
		}
		commit := rng.IntN(4) > 0
		if cl.EndTransaction(ctx, kgo.TransactionEndTry(commit)) == nil {
			told.note(name, commit)
		}
	}
}

// checkOutcomes compares what read_committed sees with what producers were told.
func (b *testBroker) checkOutcomes(t *testing.T, told *outcomes) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	ends, err := kadm.NewClient(b.client(t)).ListEndOffsets(ctx, "orders")
	if err != nil {
		t.Fatal(err)
	}
	seen := [2]map[string]int{}
	for p := range int32(2) {
		seen[p] = map[string]int{}
		end, _ := ends.Lookup("orders", p)
		if stable := b.topic("orders").partitions[p].LastStable(); stable != end.Offset {
			t.Errorf("partition %d is stable up to %d of %d", p, stable, end.Offset)
		}
		for _, v := range b.readCommitted(t, "orders", p) {
			seen[p][v]++
		}
	}
	for name, n := range seen[0] {
		if n != 1 || seen[1][name] != 1 {
			t.Errorf("transaction %s: %d times in one partition, %d in the other", name, n, seen[1][name])
		}
	}
	for name := range seen[1] {
		if seen[0][name] == 0 {
			t.Errorf("transaction %s is in one partition only", name)
		}
	}
	commits := 0
	for name, committed := range told.told {
		if _, visible := seen[0][name]; visible != committed {
			t.Errorf("transaction %s: told committed=%v, visible=%v", name, committed, visible)
		}
		if committed {
			commits++
		}
	}
	t.Logf("%d transactions acknowledged, %d of them commits, %d seen", len(told.told), commits, len(seen[0]))
	if commits == 0 {
		t.Error("nothing was committed: the test shows nothing")
	}
}

// readCommitted reads a partition to its last stable offset.
func (b *testBroker) readCommitted(t *testing.T, topic string, partition int32) []string {
	t.Helper()
	ctx := within(t, 30*time.Second)
	stable := b.topic(topic).partitions[partition].LastStable()
	cl := b.client(t, kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}))
	var got []string
	for at := int64(0); at < stable; {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s-%d at %d of %d: %v", topic, partition, at, stable, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				got = append(got, string(r.Value))
			}
			at = r.Offset + 1
		})
	}
	return got
}
