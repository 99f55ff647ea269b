package mirror

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/record"
)

// BenchmarkCatchUp copies a backlog of 1 KB records in 8 partitions between two
// bundled brokers in memory, which take most of the processor's time themselves.
func BenchmarkCatchUp(b *testing.B) {
	for _, batch := range []int{1, 16, 64, 512} {
		b.Run(fmt.Sprintf("%d records a batch", batch), func(b *testing.B) {
			const partitions, recordBytes = 8, 1024
			total := 128 << 20
			if batch == 1 { // of which the brokers take fewer
				total = 24 << 20
			}
			w := newWorld(b)
			for b.Loop() {
				b.StopTimer()
				topic := fmt.Sprintf("bench-%d", rand.Int64())
				w.west.create(b, topic, partitions)
				w.east.create(b, topic, partitions)
				fill(b, w.west, topic, partitions, recordBytes, batch, total)
				n := w.node(fmt.Sprintf("n%d", rand.Int64()), nil)
				b.StartTimer()
				cpu, began := cpuTime(), time.Now()
				n.Assign(w.copies(1, partitions, topic))
				eventually(b, "caught up", func() bool { return n.caughtUp(partitions) })
				took := time.Since(began)
				b.ReportMetric(float64(total)/1e6/took.Seconds(), "MB/s")
				b.ReportMetric((cpuTime()-cpu).Seconds()/(float64(total)/1e9), "cpu-s/GB")
				b.ReportMetric(float64(n.Metrics().Commits.Load()), "commits")
				b.ReportMetric(float64(n.Metrics().RawBatches.Load()+n.Metrics().EncodedBatches.Load()), "batches")
				b.StopTimer()
				n.stop()
				b.StartTimer()
			}
		})
	}
}

func fill(b *testing.B, s *site, topic string, partitions int32, size, batch, total int) {
	b.Helper()
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(rand.Int32())
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Spec.BootstrapServers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(int32(100+batch*(size+20))), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(50*time.Millisecond),
		kgo.MaxBufferedRecords(1<<20))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	promise := kgo.AbortingFirstErrPromise(cl)
	for i := range total / size {
		cl.Produce(b.Context(), &kgo.Record{Topic: topic, Partition: int32(i) % partitions, Value: value}, promise.Promise())
	}
	if err := promise.Err(); err != nil {
		b.Fatal(err)
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it cannot fail on ourselves
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStage stages a fetch of 256 batches of one record, with and without
// asking where they are from: the cost of that question for a producer that is
// known, and for a lane's batches, whose hop is looked up.
func BenchmarkStage(b *testing.B) {
	const batches = 256
	replicators := &told{replicators: map[int64]bool{7: true}, hops: []toldHop{{0, batches, "a", false}}}
	local := replicators.about(false)
	local.learn(question{producerID: 5})
	for name, c := range map[string]struct {
		producer int64
		about    *provenance
	}{"unasked": {5, nil}, "local": {5, local}, "a lane's": {7, replicators.about(false)}} {
		var data []byte
		for i := range int64(batches) {
			data = append(data, dense(i, 1, record.Stamp{ProducerID: c.producer, Attributes: record.Attributes(0).WithTransactional(c.producer == 7)})...)
		}
		b.Run(name, func(b *testing.B) {
			lim := roomy
			lim.origin = c.about
			for b.Loop() {
				if chunks, _, err := stageBatches(fetched{0, data, nil}, lim); err != nil || len(chunks) != batches {
					b.Fatal(len(chunks), err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batches, "ns/batch")
		})
	}
}
