package broker

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
)

const (
	// earlyBytes is what may gather of runs before they are written early.
	earlyBytes = 4 << 20
	// waitingBytes is what may wait while the ledger takes none; what comes then is
	// lost.
	waitingBytes = 32 << 20
	// runBytes and partBytes are what a run takes of memory beside its names, and a
	// part of it.
	runBytes  = 300
	partBytes = 16
	// maxParts bounds a run, so that its entry fits into a page.
	maxParts = 10_000
	// maxName bounds each name of a client in an entry, in bytes: clients may call
	// themselves what they like.
	maxName = 256
)

// gathered is what clients did since it was last taken: runs of one client on one
// partition, which are exact also where clients take turns. Its memory is bounded.
// It is not safe for concurrent use.
type gathered struct {
	open   map[runKey]*run
	closed []closedRun // whose key has gone on from an earlier offset
	bytes  int
	lost   int64
}

// runKey is what the entries of a run have in common.
type runKey struct {
	partition  *replica.Partition
	client     *Client           // as one connection has it
	kind       ledger.AccessKind // 0 for a production
	producerID int64             // of a production
	group      string            // of a commit
}

// run is stretches of offsets, in order and apart.
type run struct {
	parts       []ledger.Stretch
	firstAt, at time.Time
}

type closedRun struct {
	runKey
	run
}

// note adds the offsets from first to last to a run.
func (g *gathered) note(key runKey, first, last int64, now time.Time) {
	r := g.open[key]
	if r != nil {
		if at := &r.parts[len(r.parts)-1]; first >= at.First && first <= at.Last+1 {
			// It goes on, or is told again in part.
			at.Last, r.at = max(at.Last, last), now
			return
		}
	}
	if g.bytes >= waitingBytes {
		g.lost++
		return
	}
	part := ledger.Stretch{First: first, Last: last}
	if r != nil {
		if first > r.last() && len(r.parts) < maxParts {
			r.parts, r.at = append(r.parts, part), now
			g.bytes += partBytes
			return
		}
		g.closed = append(g.closed, closedRun{key, *r})
	}
	g.open[key] = &run{parts: []ledger.Stretch{part}, firstAt: now, at: now}
	g.bytes += runBytes + len(key.client.Principal) + len(key.client.ClientID) + len(key.client.Software) + len(key.group)
}

// take removes all runs, in order of time, and says how many were lost before.
func (g *gathered) take() (runs []closedRun, lost int64) {
	runs, lost = g.closed, g.lost
	for key, r := range g.open {
		runs = append(runs, closedRun{key, *r})
	}
	*g = gathered{open: map[runKey]*run{}}
	slices.SortStableFunc(runs, func(a, b closedRun) int {
		return cmp.Or(a.firstAt.Compare(b.firstAt), cmp.Compare(a.first(), b.first()))
	})
	return runs, lost
}

func (r *run) first() int64 { return r.parts[0].First }
func (r *run) last() int64  { return r.parts[len(r.parts)-1].Last }

func (r *closedRun) entry() ledger.Entry {
	place := ledger.Place{
		TopicID: r.partition.TopicID, Topic: r.partition.Topic, Partition: r.partition.Partition,
		First: r.first(), Last: r.last(),
	}
	if len(r.parts) > 1 {
		place.Parts = r.parts
	}
	client := ledger.Client{
		Principal: shortened(r.client.Principal), ClientID: shortened(r.client.ClientID),
		Software: shortened(r.client.Software), Address: r.client.Host,
	}
	if r.kind == 0 {
		return &ledger.Production{
			Place: place, Client: client, Records: place.Offsets(),
			ProducerID: r.producerID, FirstAt: r.firstAt, At: r.at,
		}
	}
	return &ledger.Access{Place: place, Client: client, Kind: r.kind, Group: r.group, FirstAt: r.firstAt, At: r.at}
}

// shortened is a name as an entry has it.
func shortened(name string) string {
	if len(name) <= maxName {
		return name
	}
	return strings.ToValidUTF8(name[:maxName], "") + "…"
}
