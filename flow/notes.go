package flow

import (
	"fmt"
	"slices"
	"strings"
)

// Notes says what a set of objects does that is worth knowing before it runs, and is
// no fault: topics that are copied in a circle, that come back under another name or
// that are carried twice to one cluster, and flows that do not promise each record
// once. The objects are expected to pass [Check].
func Notes(objects []Object) []string {
	c := newChecker()
	c.check(objects)
	var notes []string
	noted := map[string]bool{} // routes by their flows
	for _, r := range c.roundTrips() {
		key := r.key()
		if noted[key] {
			continue
		}
		name, ok := commonName(r.conditions())
		if !ok {
			continue
		}
		noted[key] = true
		if a := r.affix(); a == (affix{}) {
			notes = append(notes, fmt.Sprintf("topics like %q are copied in a circle, %s: each record comes once to each cluster, and is not copied back to where it has been", name, r))
		} else {
			source := r[0].Flow.Spec.Source
			notes = append(notes, fmt.Sprintf("topics like %q of %s come back to it as %q, by %s: that is another topic, so they are copied there; let %s have origin: %s if they should not be",
				name, source, a.around(name), r, r.last().Key(), OriginLocal))
		}
	}
	for _, f := range c.running {
		if f.Flow.Spec.Delivery == DeliveryAtLeastOnce {
			notes = append(notes, fmt.Sprintf("%s is %s: after a fault it matches what is at the destination with the source, and what cannot be matched may be there twice; nothing at the destination fences a node that was replaced and does not know it", f.Key(), DeliveryAtLeastOnce))
		}
	}
	return append(notes, c.carriedTwice()...)
}

// key is the same for a circle wherever it is entered.
func (r route) key() string {
	names := make([]string, 0, len(r))
	for _, f := range r {
		names = append(names, f.Name())
	}
	if r.affix() == (affix{}) {
		slices.Sort(names)
	}
	return strings.Join(names, " ")
}

// carriedTwice finds topics that two flows bring from one cluster to another under
// different names.
func (c *checker) carriedTwice() (notes []string) {
	for i, f := range c.running {
		for _, g := range c.running[:i] {
			a, b := &f.Flow.Spec, &g.Flow.Spec
			if a.Source != b.Source || a.Destination != b.Destination || a.Topics.Rename == b.Topics.Rename {
				continue
			}
			if name, ok := commonName([]condition{{affix{}, a.Topics.Selector}, {affix{}, b.Topics.Selector}}); ok {
				notes = append(notes, fmt.Sprintf("topics like %q are carried twice from %s to %s: as %q by %s, and as %q by %s",
					name, a.Source, a.Destination, b.Topics.Rename.Destination(name), g.Key(), a.Topics.Rename.Destination(name), f.Key()))
			}
		}
	}
	return notes
}
