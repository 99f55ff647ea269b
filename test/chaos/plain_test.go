//go:build chaos && interop && unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// numbered writes the numbers from 0 on to a topic's partitions, some together, until
// it is told to end.
type numbered struct {
	sent [plainPartitions]int
	done chan error
	end  context.CancelFunc
}

const plainPartitions = 4

func startNumbered(t *testing.T, c *cluster, topic string) *numbered {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &numbered{done: make(chan error, 1), end: cancel}
	cl := c.open(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	go func() { w.done <- w.write(ctx, cl, topic) }()
	t.Cleanup(cancel)
	return w
}

func (w *numbered) write(ctx context.Context, cl *kgo.Client, topic string) error {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		var records []*kgo.Record
		for p := range w.sent {
			for range 10 {
				records = append(records, &kgo.Record{Topic: topic, Partition: int32(p), Value: strconv.AppendInt(nil, int64(w.sent[p]), 10)})
				w.sent[p]++
			}
		}
		// Once begun it is written: the numbers are to be without a hole.
		if err := cl.ProduceSync(context.WithoutCancel(ctx), records...).FirstErr(); err != nil {
			return err
		}
	}
}

// plain is what a reader finds of numbers that may be there more than once.
type plain struct{ lost, doubled, reordered int }

func (r *plain) judge(records []*kgo.Record, sent int) {
	next := 0
	for _, have := range records {
		n, err := strconv.Atoi(string(have.Value))
		switch {
		case err != nil || n > next:
			r.reordered++ // or lost, which shows at the end
		case n < next:
			r.doubled++
			continue
		}
		next = n + 1
	}
	seen := map[string]bool{}
	for _, have := range records {
		seen[string(have.Value)] = true
	}
	r.lost += sent - len(seen)
}

// TestAtLeastOnce kills nodes of a fleet that copies between Apache Kafkas without
// transactions, again and again, with records under way. Every record is there, in order
// from its first time on; how many are there twice is said.
func TestAtLeastOnce(t *testing.T) {
	const topic, kills = "numbers", 20
	dir := t.TempDir()
	us, eu := startCluster(t, dir, "us", kafka39), startCluster(t, dir, "eu", kafka41)
	makePartitions(t, us, topic, plainPartitions)
	b := carry(t, us, eu, 3, "delivery: at-least-once, topics: {include: [\"*\"]}")
	w := startNumbered(t, us, topic)
	b.apply("")
	eventually(t, recovery, "the topic is there", func() error { return counterparts(t, eu, topic) })
	rng := rand.New(rand.NewPCG(*seedFlag, 20))
	ends := func() (sum int64) {
		for _, end := range endsOf(t, eu, topic)[topic] {
			sum += end
		}
		return sum
	}
	for kill := range kills {
		at := ends()
		eventually(t, recovery, "it copies", func() error {
			if now := ends(); now < at+400 {
				return fmt.Errorf("%d records after %d kills", now, kill)
			}
			return nil
		})
		n := b.nodes[rng.IntN(len(b.nodes))]
		n.process.kill()
		n.start()
	}
	w.end()
	must(t, <-w.done)
	var found plain
	eventually(t, recovery, "all is there", func() error {
		found = plain{}
		for p, records := range readAll(t, eu, topic) {
			found.judge(records, w.sent[p])
		}
		if found.lost > 0 {
			return fmt.Errorf("%d records are not there", found.lost)
		}
		return nil
	})
	total := 0
	for _, n := range w.sent {
		total += n
	}
	t.Logf("%d kills, %d records: %d lost, %d doubled, %d reordered", kills, total, found.lost, found.doubled, found.reordered)
	if found.reordered > 0 {
		t.Errorf("%d records come before others that were written earlier", found.reordered)
	}
}
