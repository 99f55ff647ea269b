package cluster

import "fmt"

// BeginFold says that a node is about to fold a ledger. It is refused with ErrConflict
// while another node does, and as a command of [LevelFolds] while a member knows no folds.
type BeginFold struct {
	ClusterID string  `json:"clusterId"`
	TopicID   string  `json:"topicId"`
	Folding   Folding `json:"folding"`
}

func (*BeginFold) kind() string     { return "ledger.fold" }
func (*BeginFold) repeatable() bool { return true }

func (c *BeginFold) apply(d *draft, _ uint64) (uint64, error) {
	by := c.Folding
	l, pinned := d.Ledgers[c.ClusterID]
	switch {
	case by.ID == "" || by.Since.IsZero():
		return 0, fmt.Errorf("fold without an id or a time: %w", ErrInvalid)
	case !pinned:
		return 0, fmt.Errorf("ledger of cluster %s: %w", c.ClusterID, ErrNotFound)
	case l.TopicID != c.TopicID:
		return 0, fmt.Errorf("the ledger of cluster %s is topic %s, not %s: %w", c.ClusterID, l.TopicID, c.TopicID, ErrInvalid)
	}
	if err := d.live(by.Node, by.Incarnation); err != nil {
		return 0, err
	}
	// A node knows what it does itself: what it begins takes the place of what it has not
	// got to end.
	if old := l.Folding; old != nil && old.Node != by.Node && !d.Ended(old.Node, old.Incarnation) {
		return 0, fmt.Errorf("%s is folding the ledger of cluster %s: %w", old.Node, c.ClusterID, ErrConflict)
	}
	by.Since = by.Since.UTC()
	l.Folding = &by
	d.ledgers()[c.ClusterID] = l
	return 0, nil
}

// EndFold says that a fold is over. It changes nothing if that is known.
type EndFold struct {
	ClusterID string `json:"clusterId"`
	ID        string `json:"id"`
}

func (*EndFold) kind() string     { return "ledger.folded" }
func (*EndFold) repeatable() bool { return true }

func (c *EndFold) apply(d *draft, _ uint64) (uint64, error) {
	if l := d.Ledgers[c.ClusterID]; l.Folding != nil && l.Folding.ID == c.ID {
		l.Folding = nil
		d.ledgers()[c.ClusterID] = l
	}
	return 0, nil
}
