package lineage

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// An answer says what its ledgers say; where one is damaged it says why that may not be
// all, or may not hold. There are three questions: whether what a hop says of a source
// offset holds still ([Index.claim]), whether what no hop speaks of was not copied
// ([Index.unclaimed], [Index.silence]), and whether there are copies of which nothing is
// known ([Index.unnamed]).

// whyHidden is what is told of a doubt about a copy that the caller may not see.
const whyHidden = "what a copy did that you may not see"

// claim is why what a copy's hops say of a source offset may hold no longer, "" if it
// does hold.
func (x *Index) claim(c *copyState, source int64) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := x.byNo[c.ledger]
	if l == nil {
		return ""
	}
	if c.strayed != "" {
		return x.ledgerSays(l, c.strayed)
	}
	if d, ok := l.damage[c.partition]; ok && d.offset > c.proved {
		return x.damaged(l, c.partition)
	}
	if source < c.shakySource {
		return x.ledgerSays(l, c.shakyWhy)
	}
	return ""
}

// ledgerSays and damaged are for people. x.mu is held.
func (x *Index) ledgerSays(l *ledgerState, why string) string {
	return fmt.Sprintf("the ledger of %s: %s", x.clusterName(l.cluster), why)
}

func (x *Index) damaged(l *ledgerState, partition int32) string {
	d := l.damage[partition]
	return fmt.Sprintf("the ledger of %s is damaged (partition %d, offset %d): %s", x.clusterName(l.cluster), partition, d.offset, d.why)
}

// wound is why a ledger may not tell of all copies, "" if it does. x.mu is held.
func (x *Index) wound(l *ledgerState) string {
	for _, partition := range slices.Sorted(maps.Keys(l.damage)) {
		return x.damaged(l, partition)
	}
	if l.nameless > 0 {
		return x.ledgerSays(l, fmt.Sprintf("the begins of %d copies are missing", l.nameless))
	}
	return ""
}

// unclaimed is why a record in a cluster may have come by a copy of which no hop says so,
// "" if it cannot. It names nothing of where copies into the place are from.
func (x *Index) unclaimed(cluster string, into []copyState) (string, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := x.ledgers[cluster]
	if l != nil {
		if why := x.wound(l); why != "" {
			return why, nil
		}
	}
	for _, c := range into {
		holes, err := holesIn(x.db, &c, 0, math.MaxInt64, 1)
		if err != nil {
			return "", err
		}
		if l := x.byNo[c.ledger]; l != nil && (len(holes) > 0 || c.strayed+c.shakyWhy+c.startWhy != "") {
			return x.ledgerSays(l, "it is silent of some of what a copy brought here, or contradicts itself"), nil
		}
	}
	return "", nil
}

// silence is why a copy's hops do not speak of a source offset that it has passed.
func (x *Index) silence(c *copyState, source int64) (string, error) {
	holes, err := holesIn(x.db, c, source, source+1, 1)
	if err != nil {
		return "", err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := x.byNo[c.ledger]
	if l == nil || len(holes) == 0 {
		return "the ledger says nothing about the offset", nil
	}
	return x.ledgerSays(l, holes[0].why), nil
}

// doubt is why not all that the index knows of a copy is certain, "" if it is.
func (x *Index) doubt(c *copyState) (string, error) {
	holes, err := holesIn(x.db, c, 0, math.MaxInt64, 1)
	if err != nil {
		return "", err
	}
	if why := x.claim(c, 0); why != "" {
		return why, nil
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch l := x.byNo[c.ledger]; {
	case l == nil:
	case len(holes) > 0:
		h := holes[0]
		return x.ledgerSays(l, fmt.Sprintf("it does not say what became of source offsets %d to %d: %s", h.from, h.to-1, h.why)), nil
	case c.startWhy != "":
		return x.ledgerSays(l, c.startWhy), nil
	}
	return "", nil
}

// unnamed is why there may be copies that an answer lacks, for each ledger that may have
// lost some; which those are is for those who may see the cluster.
func (v *viewer) unnamed() []string {
	whys := map[string]string{} // by cluster.id
	v.x.mu.RLock()
	for cluster, l := range v.x.ledgers {
		if why := v.x.wound(l); why != "" {
			whys[cluster] = why
		}
	}
	v.x.mu.RUnlock()
	var lines []string
	for cluster, why := range whys {
		if !v.everything(cluster) {
			why = "a ledger is damaged"
		}
		lines = append(lines, "whether there are copies that are not named: "+why)
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// unsaid is why a ledger may lack productions and accesses, "" if it does not.
func (x *Index) unsaid(cluster string) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l := x.ledgers[cluster]
	if l == nil || len(l.damage) == 0 {
		return ""
	}
	return x.wound(l)
}

// unheard is why productions and accesses in a cluster may be missing from an answer.
func (v *viewer) unheard(cluster string) []string {
	_, watched := v.x.recorded(cluster, kindProgress)
	why := v.x.unsaid(cluster)
	if why == "" || !watched && !v.x.tells(cluster) {
		return nil // or it is said already that nothing is known
	}
	return []string{"whether more is to be said of who produced and who read: " + v.ofLedger(cluster, why)}
}

// ofLedger is as much as the caller may know of what is wrong with a cluster's ledger.
func (v *viewer) ofLedger(cluster, why string) string {
	if v.everything(cluster) {
		return why
	}
	return "its ledger is damaged"
}

// lostStart is why a copy may have begun before the first offset that is known of it.
func (x *Index) lostStart(c *copyState) string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch l := x.byNo[c.ledger]; {
	case l == nil:
		return ""
	case c.startWhy != "":
		return x.ledgerSays(l, c.startWhy)
	default:
		return x.wound(l)
	}
}
