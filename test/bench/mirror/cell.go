package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/waybillhq/waybill/internal/record"
)

// cell is one shape of data, and one row of the table for each who copies it.
type cell struct {
	Name       string
	Record     int // bytes of a value
	Batch      int // records of a batch
	Codec      record.Codec
	Partitions int
	Total      int64 // records over all partitions
	Rate       int   // records per second, 0: as fast as they are taken
	TLS        bool
	KeepLedger bool // a sink keeps what it is sent of the ledger, to look at it
}

const topic = "bench"

// cells cover small and large records, small and large batches, codecs, one
// partition and many, backlog and a steady rate, with and without TLS.
func cells() []cell {
	const gb = 1_000_000
	return []cell{
		{Name: "1KB, 64 a batch", Record: 1000, Batch: 64, Partitions: 100, Total: 3 * gb},
		{Name: "1KB, 64 a batch, 1 partition", Record: 1000, Batch: 64, Partitions: 1, Total: 2 * gb},
		{Name: "1KB, 64 a batch, 10000 partitions", Record: 1000, Batch: 64, Partitions: 10_000, Total: 2 * gb},
		{Name: "1KB, 16 a batch", Record: 1000, Batch: 16, Partitions: 100, Total: 2 * gb},
		{Name: "1KB, 1 a batch", Record: 1000, Batch: 1, Partitions: 100, Total: gb / 4},
		{Name: "1KB, 1000 a batch", Record: 1000, Batch: 1000, Partitions: 100, Total: 3 * gb},
		{Name: "100B, 600 a batch", Record: 100, Batch: 600, Partitions: 100, Total: 10 * gb},
		{Name: "100B, 1 a batch", Record: 100, Batch: 1, Partitions: 100, Total: gb / 2},
		{Name: "1KB, 64 a batch, lz4", Record: 1000, Batch: 64, Codec: record.LZ4, Partitions: 100, Total: 3 * gb},
		{Name: "1KB, 64 a batch, zstd", Record: 1000, Batch: 64, Codec: record.Zstd, Partitions: 100, Total: 3 * gb},
		{Name: "1KB, 64 a batch, TLS", Record: 1000, Batch: 64, Partitions: 100, Total: 2 * gb, TLS: true},
		{Name: "1KB, 64 a batch, 20000 a second", Record: 1000, Batch: 64, Partitions: 100, Total: gb / 10, Rate: 20_000},
	}
}

// smallCells are for brokers that keep what they are sent.
func smallCells() []cell {
	return []cell{
		{Name: "1KB, 64 a batch", Record: 1000, Batch: 64, Partitions: 100, Total: 1_000_000},
		{Name: "1KB, 64 a batch, zstd", Record: 1000, Batch: 64, Codec: record.Zstd, Partitions: 100, Total: 1_000_000},
		{Name: "100B, 600 a batch", Record: 100, Batch: 600, Partitions: 100, Total: 6_000_000},
	}
}

// perPartition is how many records each partition has: whole batches, the same for all.
func (c *cell) perPartition() int64 {
	batches := max(1, c.Total/int64(c.Partitions)/int64(c.Batch))
	return batches * int64(c.Batch)
}

// records is how many there really are.
func (c *cell) records() int64 { return c.perPartition() * int64(c.Partitions) }

// megabytes is their uncompressed volume.
func (c *cell) megabytes() float64 { return float64(c.records()) * float64(c.Record) / 1e6 }

// batch is the batch that every partition repeats. Half of a value is text that
// compresses, as of JSON, and half is not.
func (c *cell) batch() (record.Batch, error) {
	rng := rand.New(rand.NewPCG(1, uint64(c.Record)))
	records := make([]record.Record, c.Batch)
	for i := range records {
		var value strings.Builder
		for value.Len() < c.Record {
			fmt.Fprintf(&value, `{"id":"%016x","status":"delivered","region":"eu-central","attempt":1},`, rng.Uint64())
		}
		records[i] = record.Record{Timestamp: 1_700_000_000_000 + int64(i), Value: []byte(value.String())[:c.Record]}
	}
	return record.Encode(records, record.NoProducer(c.Codec))
}
