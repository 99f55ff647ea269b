package broker

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMain(m *testing.M) {
	// Whoever keeps a frame that was lent reads nonsense, and fails a test.
	poisonFrames = true
	os.Exit(m.Run())
}

func TestFramesOfOneConnectionDoNotEndInAnothersTopic(t *testing.T) {
	b := startDiskBroker(t, nil)
	const producers, records = 4, 40
	var group sync.WaitGroup
	for n := range producers {
		topic := fmt.Sprintf("t%d", n)
		if _, err := b.createTopic(topic, 1, nil); err != nil {
			t.Fatal(err)
		}
		cl := b.client(t, kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0))
		group.Go(func() {
			for i := range records {
				// Of every class that is lent, and of sizes that are not.
				value := bytes.Repeat([]byte{byte(n + 1)}, 20_000<<(i%6))
				if err := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: topic, Value: value}).FirstErr(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for n := range producers {
		got := consumeN(t, b.client(t), fmt.Sprintf("t%d", n), records)
		for i, r := range got {
			if want := bytes.Repeat([]byte{byte(n + 1)}, 20_000<<(i%6)); !bytes.Equal(r.Value, want) {
				t.Fatalf("producer %d, record %d: %d bytes that are not what was sent", n, i, len(r.Value))
			}
		}
	}
}

func TestLentFramesFit(t *testing.T) {
	for _, size := range []int{budgetThreshold, budgetThreshold + 1, 1 << 20, 1<<20 + 1, 16 << 20} {
		buf := lendFrame(size)
		if buf == nil || len(*buf) != size || cap(*buf) >= 2*size {
			t.Fatalf("for %d bytes: %v", size, buf)
		}
		takeBackFrame(buf)
	}
	if lendFrame(16<<20+1) != nil {
		t.Error("a frame beyond the greatest class is lent")
	}
}
