package cluster

import "fmt"

// RecallLanes brings lanes back that a restored fleet has forgotten: they were opened
// after the backup, and found at the cluster that they write to. From then on they are
// lanes of ended incarnations as others are, to be fenced before a copy to that cluster
// begins. Those of living incarnations are the fleet's own, and left as they are.
type RecallLanes struct {
	ClusterID string `json:"clusterId"`
	Lanes     []Lane `json:"lanes,omitempty"`
	// Done: these are the last of the cluster. What comes later changes nothing.
	Done bool `json:"done,omitempty"`
}

func (*RecallLanes) kind() string     { return "lane.recall" }
func (*RecallLanes) repeatable() bool { return true }

func (c *RecallLanes) apply(d *draft, _ uint64) (uint64, error) {
	switch {
	case c.ClusterID == "":
		return 0, fmt.Errorf("lanes of a cluster without an id: %w", ErrInvalid)
	case d.RestoredAt == 0:
		return 0, fmt.Errorf("a fleet that was not restored has forgotten no lane: %w", ErrInvalid)
	case d.Recalled[c.ClusterID]:
		return 0, nil
	}
	for _, l := range c.Lanes {
		if l.ID == "" || l.ClusterID != c.ClusterID {
			return 0, fmt.Errorf("lane %q of cluster %q among those of %q: %w", l.ID, l.ClusterID, c.ClusterID, ErrInvalid)
		}
		// Whether an incarnation lives is asked of this state and not of the one that the
		// lanes were looked for with: since then one may have begun.
		if _, known := d.Lanes[l.ID]; !known && d.Ended(l.Node, l.Incarnation) {
			d.lanes()[l.ID] = l
		}
	}
	if c.Done {
		d.recalled()[c.ClusterID] = true
	}
	return 0, nil
}
