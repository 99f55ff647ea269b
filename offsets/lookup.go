package offsets

import (
	"cmp"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Where is a position as people write it. Cluster is a name or a cluster.id.
type Where struct {
	Cluster   string `json:"cluster"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// Translation is where a position lies in one other partition.
type Translation struct {
	To     Where  `json:"to"` // its offset is the result's
	Flow   string `json:"flow"`
	Result Result `json:"result"`
	// Lives is the number of lives of the two topics that the ledger knows; the
	// answer is about the one that was copied last.
	Lives int `json:"lives"`
}

// life is one copy that connects a partition with another.
type life struct {
	here, there ledger.End
	begin       ledger.Begin
	forward     bool
}

// lives are the copies between a partition and each other one, in the cluster named
// to, or in all if to is empty. ms.mu is held.
func (ms *Maps) lives(from Where, to string) map[Where][]life {
	lives := map[Where][]life{}
	for _, side := range []bool{false, true} {
		for _, key := range ms.names[nameKey{side, from.Cluster, from.Topic, from.Partition}] {
			b := ms.copies[key].m.Labels()
			l := life{b.Copy.Source, b.Copy.Destination, b, true}
			other := Where{Cluster: b.DestinationCluster, Topic: b.DestinationTopic, Partition: b.Copy.Destination.Partition}
			if side {
				l = life{b.Copy.Destination, b.Copy.Source, b, false}
				other = Where{Cluster: b.SourceCluster, Topic: b.SourceTopic, Partition: b.Copy.Source.Partition}
			}
			if to == "" || to == other.Cluster || to == l.there.Cluster {
				lives[other] = append(lives[other], l)
			}
		}
	}
	return lives
}

// Counterparts are the partitions in which [Maps.Translate] answers, in no order and
// with no offset.
func (ms *Maps) Counterparts(from Where, to string) []Where {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	return slices.Collect(maps.Keys(ms.lives(from, to)))
}

// Translate answers where a position lies in each partition that is a copy of
// its partition or is copied into it, in the cluster named to, or in all if to is
// empty. Bounds are what the caller knows of the log of an answer; nil if nothing:
// then it may lie below the log start. It does not wait for the ledger (see
// [Maps.CatchUp]).
func (ms *Maps) Translate(from Where, to string, bounds func(Where) Bounds) []Translation {
	if bounds == nil {
		bounds = func(Where) Bounds { return AnyBounds }
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	var out []Translation
	for other, ls := range ms.lives(from, to) {
		// The last begin of either direction names the present life; where both
		// directions are copied, the one that leads away from the position names
		// the flow.
		slices.SortStableFunc(ls, func(a, b life) int {
			return cmp.Or(b.begin.At.Compare(a.begin.At), boolCompare(b.forward, a.forward))
		})
		now := ls[0]
		ends := map[[2]ledger.End]bool{}
		for _, l := range ls {
			ends[[2]ledger.End{l.here, l.there}] = true
			if l.forward && l.here == now.here && l.there == now.there {
				now.begin.Flow = l.begin.Flow
			}
		}
		t := Translation{To: other, Flow: now.begin.Flow, Lives: len(ends)}
		t.Result = ms.route(now.here, now.there).Translate(from.Offset, bounds(other))
		t.To.Offset = t.Result.Offset
		out = append(out, t)
	}
	slices.SortStableFunc(out, func(a, b Translation) int {
		return cmp.Or(cmp.Compare(a.To.Cluster, b.To.Cluster), cmp.Compare(a.To.Topic, b.To.Topic), cmp.Compare(a.To.Partition, b.To.Partition))
	})
	return out
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
