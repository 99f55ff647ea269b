package offsets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// doubt is why nothing certain can be said of what a copy did last, "" if there
// is no doubt. ms.mu is held.
func (ms *Maps) doubt(c *entry) string {
	if c.strayed.why != "" && c.strayed.offset > ms.waivedAt(c.strayedTo) {
		return c.strayed.why
	}
	if f, ok := ms.faults[c.at]; ok && f.offset > max(c.proved, ms.waivedAt(c.at)) {
		return f.why
	}
	return ""
}

// shakenOf is what of a copy may be otherwise, though it has gone on since; the zero value
// if nothing may, or nobody minds. ms.mu is held.
func (ms *Maps) shakenOf(c *entry) shaken {
	if c.shaken.offset <= ms.waivedAt(c.at) {
		return shaken{}
	}
	return c.shaken
}

// doubtBefore is why nothing certain can be said of what a copy did last before a source
// offset, "" if there is no doubt. ms.mu is held.
func (ms *Maps) doubtBefore(c *entry, source int64) string {
	if sh := ms.shakenOf(c); source < sh.below {
		return sh.why
	}
	return c.m.whyUnknownBefore(source, ms.waivedAt(c.at))
}

// waivedAt is the last ledger offset whose faults count no more, -1 if all do.
// ms.mu is held.
func (ms *Maps) waivedAt(at place) int64 {
	if o, ok := ms.waived[at]; ok {
		return o
	}
	return -1
}

// Waive is an operator's word that what may be lost of a ledger partition, or is
// contradictory there, at or below an offset is known and does not matter: copies that
// were uncertain because of it are taken to stand where the rest of the ledger says, and
// copies that the ledger does not know to be new. Positions in what is not known are
// translated so that nothing is skipped. The caller remembers it and says it again
// after a restart.
func (ms *Maps) Waive(cluster string, partition int32, upTo int64) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	at := place{cluster, partition}
	ms.waived[at] = max(upTo, ms.waivedAt(at))
}

// Damage is where pages of a ledger may be lost, or contradict each other, and why.
type Damage struct {
	Cluster   string `json:"cluster"` // cluster.id
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"` // the last
	Why       string `json:"why"`
	Waived    bool   `json:"waived"`
	// Copies is the number of known copies that are uncertain because of it or what
	// came before.
	Copies int `json:"copies"`
}

// Damages lists the last damage of each ledger partition that has one.
func (ms *Maps) Damages() []Damage {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	last, copies := maps.Clone(ms.faults), map[place]int{}
	for _, c := range ms.copies {
		counted := map[place]bool{}
		for _, d := range ms.damageOf(c) {
			if had, ok := last[d.at]; !ok || d.offset > had.offset {
				last[d.at] = d.fault
			}
			counted[d.at] = counted[d.at] || d.offset > ms.waivedAt(d.at)
		}
		counted[c.at] = counted[c.at] || ms.doubt(c) != ""
		for at, uncertain := range counted {
			if uncertain {
				copies[at]++
			}
		}
	}
	all := make([]Damage, 0, len(last))
	for at, f := range last {
		all = append(all, Damage{Cluster: at.cluster, Partition: at.partition, Offset: f.offset, Why: f.why, Waived: f.offset <= ms.waivedAt(at), Copies: copies[at]})
	}
	slices.SortStableFunc(all, func(a, b Damage) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Partition, b.Partition))
	})
	return all
}

type damageAt struct {
	at place
	fault
}

// damageOf is what of the damage of ledgers a copy shows itself. ms.mu is held.
func (ms *Maps) damageOf(c *entry) (all []damageAt) {
	if f, ok := c.m.gravest(); ok {
		why := fmt.Sprintf("ledger partition %d, offset %d: %s", c.at.partition, f.At, f.Why)
		if f.At == ms.faults[c.at].offset {
			why = cmp.Or(ms.faults[c.at].why, why)
		}
		all = append(all, damageAt{c.at, fault{f.At, why}})
	}
	if c.shaken.below > 0 {
		all = append(all, damageAt{c.at, fault{c.shaken.offset, c.shaken.why}})
	}
	if c.strayed.why != "" {
		all = append(all, damageAt{c.strayedTo, c.strayed})
	}
	return all
}
