//go:build interop

package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

const (
	// smallProducers each wait for an answer before they send the next record:
	// every batch holds one, and two producers take turns on a partition, so that
	// no run of provenance is longer than that.
	smallProducers = 16
	smallRecords   = 60_000
	smallSize      = 100
)

// small is what a request costs that carries next to nothing.
func small(ctx context.Context, r *results, t target, p *process) error {
	if err := p.prepare(ctx, t, topicName, smallProducers/2); err != nil {
		return err
	}
	if _, _, err := produceSmall(ctx, p, smallRecords/5); err != nil {
		return err
	}
	took, cpu, err := produceSmall(ctx, p, smallRecords)
	r.add("single records", t.name, "1/s", smallRecords/took.Seconds())
	r.add("cpu of a single record", t.name, "µs", float64(cpu.Microseconds())/smallRecords)
	return err
}

// produceSmall has all producers send n records together.
func produceSmall(ctx context.Context, p *process, n int) (took, cpu time.Duration, err error) {
	value := values()[0][:smallSize]
	producers, ctx := errgroup.WithContext(ctx)
	before, err := p.cpu()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for i := range int32(smallProducers) {
		producers.Go(func() error {
			cl, err := p.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
			if err != nil {
				return err
			}
			defer cl.Close()
			for range n / smallProducers {
				record := &kgo.Record{Topic: topicName, Partition: i / 2, Value: value}
				if err := cl.ProduceSync(ctx, record).FirstErr(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := producers.Wait(); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	after, err := p.cpu()
	return took, after - before, err
}
