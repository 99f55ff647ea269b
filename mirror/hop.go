package mirror

import (
	"slices"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// placed is a chunk together with the destination offset of its first record,
// which the broker's answer tells.
type placed struct {
	chunk
	base int64

	// Of a chunk whose batch goes to the quarantine topic: where that is, and how
	// many records it has. base is then an offset there.
	asideTo      flow.TopicPartition
	asideRecords int64
}

// maxTiles bounds the runs and gaps of one hop, so that a hop with its 30 bytes
// at most for each stays well below the ledger's largest page.
const maxTiles = 2000

// hopsOf folds chunks, which follow each other without a hole, into hops that
// tile the same range. Neighbouring runs of one path and route merge when they stay
// neighbours at the destination.
func hopsOf(proto ledger.Hop, chunks []placed) []*ledger.Hop {
	if len(chunks) == 0 {
		return nil
	}
	f := hopFolder{proto: proto}
	f.begin(chunks[0].from)
	for _, c := range chunks {
		f.add(c)
	}
	return f.hops
}

type hopFolder struct {
	proto ledger.Hop
	hops  []*ledger.Hop
	tail  record.Digest // of the last run of the last hop
}

func (f *hopFolder) begin(from int64) *ledger.Hop {
	h := f.proto
	h.From, h.Next = from, from
	h.SourceLeaderEpoch = -1
	f.hops = append(f.hops, &h)
	return &h
}

func (f *hopFolder) add(c placed) {
	dest, runs, gaps, begun := c.base, c.runs, c.gaps, false
	for len(runs)+len(gaps) > 0 {
		h := f.hops[len(f.hops)-1]
		// A hop is of one leader epoch of the source: where each began is what tells,
		// after a truncation, which records both sides still have.
		full := len(h.Runs) + len(h.Gaps)
		if full >= maxTiles || full > 0 && !begun && h.SourceLeaderEpoch != c.leaderEpoch {
			h = f.begin(h.Next)
		}
		begun = true
		if len(gaps) == 0 || (len(runs) > 0 && runs[0].source < gaps[0].Source) {
			if c.whole {
				dest = runs[0].source
			}
			f.run(h, c, runs[0], dest)
			dest += runs[0].count
			runs = runs[1:]
			continue
		}
		h.Gaps = appendGap(h.Gaps, gaps[0].Source, gaps[0].Source+gaps[0].Count, gaps[0].Reason)
		h.Next += gaps[0].Count
		gaps = gaps[1:]
	}
	h := f.hops[len(f.hops)-1]
	h.Bytes += int64(c.size)
	h.SourceLeaderEpoch = c.leaderEpoch
}

func (f *hopFolder) run(h *ledger.Hop, c placed, r sourceRun, dest int64) {
	h.Next += r.count
	route := routeOf(h, c.route)
	if n := len(h.Runs); n > 0 {
		last := &h.Runs[n-1]
		if last.Path == c.path && last.Route == route && last.Source+last.Count == r.source && last.Destination+last.Count == dest {
			f.tail = f.tail.Join(r.digest)
			last.Count += r.count
			last.Digest = f.tail.CRC
			return
		}
	}
	f.tail = r.digest
	h.Runs = append(h.Runs, ledger.Run{Source: r.source, Destination: dest, Count: r.count, Path: c.path, Digest: r.digest.CRC, Route: route})
}

// routeOf is how a run of the hop names a route, which is added if it is new.
func routeOf(h *ledger.Hop, route ledger.Route) int {
	if len(route) == 0 {
		return 0
	}
	for i, have := range h.Routes {
		if slices.Equal(have, route) {
			return i + 1
		}
	}
	h.Routes = append(h.Routes, route)
	return len(h.Routes)
}
