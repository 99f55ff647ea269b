package mirror

import (
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// A request to a broker holds one batch of each partition, and what a batch costs
// on its way is the same for one record as for a thousand. So small batches that
// came in one fetch travel as one. Nothing waits for that: a source that is read as
// fast as it is written brings them one by one.
const (
	// smallBatch is what a batch must be below, in bytes. Merging costs about a
	// CPU-second per GB, for checksums and a copy; that of a batch of 4 KiB is less
	// than what a batch for itself costs on its way.
	smallBatch = 4 << 10
	// mergedBatch bounds what is made of them: Kafka's own fetch and produce
	// defaults, and the processor's cache, are made for batches of this size.
	mergedBatch = 64 << 10
	// deltaGrowth is by how much a record may grow when its deltas count from
	// another batch: two varints and the length before them.
	deltaGrowth = 16
)

// coalesce merges small batches, with the gaps between them, that follow each
// other in chunks. Only uncompressed ones: decoding and encoding compressed ones
// again costs more than is gained. Nor those that came by different routes: whoever
// copies on from the destination finds batches that are from one place. What cannot be merged, because it is not what
// its header says, travels as it is and is found out at the destination.
func coalesce(chunks []chunk, lim limits) []chunk {
	out := make([]chunk, 0, len(chunks))
	for len(chunks) > 0 {
		if merged, n := mergeFirst(chunks, min(mergedBatch, lim.maxBatch)); n > 0 {
			out, chunks = append(out, merged), chunks[n:]
			continue
		}
		out, chunks = append(out, chunks[0]), chunks[1:]
	}
	return out
}

// mergeFirst merges as many of the first chunks as fit limit bytes; n is 0 if they
// are not at least two batches.
func mergeFirst(chunks []chunk, limit int) (merged chunk, n int) {
	if !coalescible(&chunks[0]) || len(chunks) == 1 {
		return chunk{}, 0
	}
	fit, size := fitting(chunks, limit)
	var m record.Merger
	m.Grow(size)
	merged = chunk{from: chunks[0].from, path: ledger.Reencoded, route: chunks[0].route}
	batches := 0
	for i := range chunks[:fit] {
		c := &chunks[i]
		if c.batch != nil {
			digest, err := m.Add(c.batch)
			if err != nil {
				break
			}
			merged.addRun(sourceRun{c.runs[0].source, c.runs[0].count, digest})
			batches++
		}
		for _, g := range c.gaps {
			merged.gaps = appendGap(merged.gaps, g.Source, g.Source+g.Count, g.Reason)
		}
		merged.next, merged.leaderEpoch = c.next, c.leaderEpoch
		n++
	}
	if batches < 2 {
		return chunk{}, 0
	}
	merged.batch = m.Batch()
	merged.own = len(merged.batch)
	return merged, n
}

// fitting is how many of the first chunks can be merged into at most limit bytes,
// and how many bytes that takes at most.
func fitting(chunks []chunk, limit int) (n, size int) {
	for ; n < len(chunks); n++ {
		c := &chunks[n]
		if c.leaderEpoch != chunks[0].leaderEpoch {
			break
		}
		if c.batch == nil {
			continue
		}
		more := len(c.batch) + deltaGrowth*int(c.batch.Count())
		if !coalescible(c) || size+more > limit || !slices.Equal(c.route, chunks[0].route) {
			break
		}
		size += more
	}
	return n, size
}

func coalescible(c *chunk) bool {
	return c.path == ledger.Raw && len(c.batch) < smallBatch && c.batch.Mergeable()
}

// addRun appends a run, or makes the last one longer.
func (c *chunk) addRun(r sourceRun) {
	if n := len(c.runs); n > 0 && c.runs[n-1].source+c.runs[n-1].count == r.source {
		last := &c.runs[n-1]
		last.count += r.count
		last.digest = last.digest.Join(r.digest)
		return
	}
	c.runs = append(c.runs, r)
}
