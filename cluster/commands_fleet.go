package cluster

import (
	"fmt"
	"maps"
)

// InitFleet names the fleet. The first leader proposes it; later ones change
// nothing.
type InitFleet struct {
	FleetID string `json:"fleetId"`
}

func (*InitFleet) kind() string     { return "fleet.init" }
func (*InitFleet) repeatable() bool { return true }

func (c *InitFleet) apply(d *draft, _ uint64) (uint64, error) {
	if c.FleetID == "" {
		return 0, fmt.Errorf("fleet without an id: %w", ErrInvalid)
	}
	if d.FleetID == "" {
		d.FleetID = c.FleetID
	}
	return 0, nil
}

// Noted changes nothing: what the fleet does without a command leaves its record with it.
type Noted struct{}

func (*Noted) kind() string     { return "fleet.noted" }
func (*Noted) repeatable() bool { return true }

func (*Noted) apply(*draft, uint64) (uint64, error) { return 0, nil }

// SetMember says what a node says of itself. Incarnation and draining stay, unless it is
// another node than the one that had the name.
type SetMember struct {
	Name    string            `json:"name"`
	APIAddr string            `json:"apiAddr,omitempty"`
	Region  string            `json:"region,omitempty"`
	Rack    string            `json:"rack,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Version string            `json:"version,omitempty"`
	// Level of commands that the node knows; 0 is 1.
	Level uint32 `json:"level,omitempty"`
	// Disk is left out until all members know LevelRemovals.
	Disk string `json:"disk,omitempty"`
}

func (*SetMember) kind() string     { return "member.set" }
func (*SetMember) repeatable() bool { return true }

func (c *SetMember) apply(d *draft, _ uint64) (uint64, error) {
	if c.Name == "" {
		return 0, fmt.Errorf("member without a name: %w", ErrInvalid)
	}
	if max(c.Level, 1) < d.level() {
		return 0, fmt.Errorf("the fleet uses commands of level %d, version %q of %s knows them up to %d: %w", d.level(), c.Version, c.Name, max(c.Level, 1), ErrTooOld)
	}
	if m := d.Members[c.Name]; m.Disk != "" && c.Disk != "" && m.Disk != c.Disk {
		d.endIncarnation(c.Name) // of one that is no member any more
		d.members()[c.Name] = Member{}
	}
	m := d.Members[c.Name]
	if c.Disk != "" {
		m.Disk = c.Disk
	}
	m.Name, m.APIAddr, m.Version = c.Name, c.APIAddr, c.Version
	m.Region, m.Rack, m.Labels = c.Region, c.Rack, nil
	if len(c.Labels) > 0 { // as a snapshot would bring it back
		m.Labels = maps.Clone(c.Labels)
	}
	m.Level = c.Level
	d.members()[c.Name] = m
	d.raiseLevel()
	return 0, nil
}

// raiseLevel notes what every member knows by now.
func (d *draft) raiseLevel() {
	var lowest uint32
	for _, m := range d.Members {
		if known := max(m.Level, 1); lowest == 0 || known < lowest {
			lowest = known
		}
	}
	if lowest > d.level() {
		d.Level = lowest
	}
}

// RemoveMember ends a node's incarnation and forgets the node.
type RemoveMember struct {
	Name string `json:"name"`
	// Disk is that of the node that is meant: another one that has the name by now is
	// left alone. Without it, whoever has the name is meant.
	Disk string `json:"disk,omitempty"`
}

func (*RemoveMember) kind() string     { return "member.remove" }
func (*RemoveMember) repeatable() bool { return true }

func (c *RemoveMember) apply(d *draft, _ uint64) (uint64, error) {
	m := d.Members[c.Name]
	meant := c.Disk == "" || m.Disk == "" || m.Disk == c.Disk
	if meant {
		d.endIncarnation(c.Name)
		delete(d.members(), c.Name)
	}
	for id, t := range d.Tokens {
		if t.Name == c.Name && (c.Disk == "" || t.Disk == c.Disk) { // the name may be used again
			delete(d.tokens(), id)
		}
	}
	d.raiseLevel()
	return 0, nil
}

// DrainMember says whether a node is to own nothing.
type DrainMember struct {
	Name     string `json:"name"`
	Draining bool   `json:"draining"`
	// Removal: a removal asks, not an operator. It takes no drain over that is there
	// already, and lifts only one that nobody else has asked for since.
	Removal bool `json:"removal,omitempty"`
}

func (*DrainMember) kind() string     { return "member.drain" }
func (*DrainMember) repeatable() bool { return true }

func (c *DrainMember) apply(d *draft, _ uint64) (uint64, error) {
	m, ok := d.Members[c.Name]
	if !ok {
		return 0, fmt.Errorf("member %q: %w", c.Name, ErrNotFound)
	}
	switch {
	case !c.Removal:
		m.Draining, m.ForRemoval = c.Draining, false
	case c.Draining && !m.Draining:
		m.Draining, m.ForRemoval = true, true
	case !c.Draining && m.ForRemoval:
		m.Draining, m.ForRemoval = false, false
	}
	d.members()[c.Name] = m
	return 0, nil
}

// StopMember says that a node is about to end its incarnation and wants its work
// to be moved before.
type StopMember struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
}

func (*StopMember) kind() string     { return "member.stop" }
func (*StopMember) repeatable() bool { return true }

func (c *StopMember) apply(d *draft, _ uint64) (uint64, error) {
	if err := d.live(c.Node, c.Incarnation); err != nil {
		return 0, err
	}
	m := d.Members[c.Node]
	m.Stopping = true
	d.members()[c.Node] = m
	return 0, nil
}

// live returns ErrIncarnationEnded if a node's incarnation is over.
func (d *draft) live(node string, incarnation uint64) error {
	if d.Ended(node, incarnation) {
		return fmt.Errorf("incarnation %d of %q: %w", incarnation, node, ErrIncarnationEnded)
	}
	return nil
}

// BeginIncarnation starts a new life of a node, and ends the one before. Its
// number is in the result.
type BeginIncarnation struct {
	Node string `json:"node"`
}

func (*BeginIncarnation) kind() string { return "incarnation.begin" }

// repeatable: the first of two is ended by the second, and nobody knew of it.
func (*BeginIncarnation) repeatable() bool { return true }

func (c *BeginIncarnation) apply(d *draft, index uint64) (uint64, error) {
	if _, ok := d.Members[c.Node]; !ok {
		return 0, fmt.Errorf("member %q: %w", c.Node, ErrNotFound)
	}
	d.endIncarnation(c.Node)
	m := d.Members[c.Node]
	m.Incarnation, m.Stopping = index, false
	d.members()[c.Node] = m
	return index, nil
}

// EndIncarnation ends a node's life as an owner: its work is nobody's and its
// lanes are to be fenced. It changes nothing if that life is over already.
type EndIncarnation struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	// Reason is for people who read the log.
	Reason string `json:"reason,omitempty"`
}

func (*EndIncarnation) kind() string     { return "incarnation.end" }
func (*EndIncarnation) repeatable() bool { return true }

func (c *EndIncarnation) apply(d *draft, _ uint64) (uint64, error) {
	if !d.Ended(c.Node, c.Incarnation) {
		d.endIncarnation(c.Node)
	}
	return 0, nil
}

// RegisterLane notes a transactional id with its present producer id and epoch.
// It is called after every InitProducerId and before the lane is used.
type RegisterLane struct {
	Lane Lane `json:"lane"`
}

func (*RegisterLane) kind() string     { return "lane.register" }
func (*RegisterLane) repeatable() bool { return true }

func (c *RegisterLane) apply(d *draft, _ uint64) (uint64, error) {
	l := c.Lane
	if l.ID == "" || l.ClusterID == "" {
		return 0, fmt.Errorf("lane without id or cluster: %w", ErrInvalid)
	}
	if err := d.live(l.Node, l.Incarnation); err != nil {
		return 0, err
	}
	if old, ok := d.Lanes[l.ID]; ok && (old.Node != l.Node || old.Incarnation != l.Incarnation || old.ClusterID != l.ClusterID) {
		return 0, fmt.Errorf("lane %q belongs to incarnation %d of %q: %w", l.ID, old.Incarnation, old.Node, ErrConflict)
	}
	d.lanes()[l.ID] = l
	return 0, nil
}

// FencedLanes takes lanes of ended incarnations off: their transactions are
// settled and their producers refused. Those that are gone already, and those of
// live incarnations, are left as they are.
type FencedLanes struct {
	IDs []string `json:"ids"`
}

func (*FencedLanes) kind() string     { return "lane.fenced" }
func (*FencedLanes) repeatable() bool { return true }

func (c *FencedLanes) apply(d *draft, _ uint64) (uint64, error) {
	for _, id := range c.IDs {
		if l, ok := d.Lanes[id]; ok && d.Ended(l.Node, l.Incarnation) {
			delete(d.lanes(), id)
		}
	}
	return 0, nil
}

// CloseLanes takes lanes off that their own incarnation has finished with: all
// their transactions are settled and no more will be written.
type CloseLanes struct {
	Node        string   `json:"node"`
	Incarnation uint64   `json:"incarnation"`
	IDs         []string `json:"ids"`
}

func (*CloseLanes) kind() string     { return "lane.close" }
func (*CloseLanes) repeatable() bool { return true }

func (c *CloseLanes) apply(d *draft, _ uint64) (uint64, error) {
	if err := d.live(c.Node, c.Incarnation); err != nil {
		return 0, err
	}
	for _, id := range c.IDs {
		if l, ok := d.Lanes[id]; ok && l.Node == c.Node && l.Incarnation == c.Incarnation {
			delete(d.lanes(), id)
		}
	}
	return 0, nil
}

// PinLedger notes the identity of a cluster's ledger. The first one stays; another
// is refused with ErrConflict.
type PinLedger struct {
	ClusterID string `json:"clusterId"`
	Ledger    Ledger `json:"ledger"`
}

func (*PinLedger) kind() string     { return "ledger.pin" }
func (*PinLedger) repeatable() bool { return true }

func (c *PinLedger) apply(d *draft, _ uint64) (uint64, error) {
	if c.ClusterID == "" || c.Ledger.TopicID == "" {
		return 0, fmt.Errorf("ledger without cluster or topic id: %w", ErrInvalid)
	}
	if old, ok := d.Ledgers[c.ClusterID]; ok {
		if old.TopicID != c.Ledger.TopicID {
			return 0, fmt.Errorf("the ledger of cluster %s is topic %s, not %s: %w", c.ClusterID, old.TopicID, c.Ledger.TopicID, ErrConflict)
		}
		return 0, nil
	}
	d.ledgers()[c.ClusterID] = c.Ledger
	return 0, nil
}

// WaiveDamage notes that somebody has looked at the damage of a ledger partition
// up to an offset. A lower offset than before changes nothing.
type WaiveDamage struct {
	ClusterID string `json:"clusterId"`
	Partition int32  `json:"partition"`
	Waiver    Waiver `json:"waiver"`
}

func (*WaiveDamage) kind() string     { return "ledger.waive" }
func (*WaiveDamage) repeatable() bool { return true }

func (c *WaiveDamage) apply(d *draft, _ uint64) (uint64, error) {
	l, ok := d.Ledgers[c.ClusterID]
	switch {
	case !ok:
		return 0, fmt.Errorf("ledger of cluster %s: %w", c.ClusterID, ErrNotFound)
	case c.Partition < 0 || c.Waiver.UpTo < 0:
		return 0, fmt.Errorf("ledger partition %d, offset %d: %w", c.Partition, c.Waiver.UpTo, ErrInvalid)
	}
	if old, ok := l.Waived[c.Partition]; ok && old.UpTo >= c.Waiver.UpTo {
		return 0, nil
	}
	l.Waived = maps.Clone(l.Waived) // the one before is in states that others read
	if l.Waived == nil {
		l.Waived = map[int32]Waiver{}
	}
	l.Waived[c.Partition] = c.Waiver
	d.ledgers()[c.ClusterID] = l
	return 0, nil
}
