package flow

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Placement says which nodes of the fleet run a flow. A change of it moves copies
// that are where they may not be, and disturbs no other.
type Placement struct {
	Nodes NodeSelector `yaml:"nodes" json:"nodes"`
}

// NodeSelector picks nodes. The zero NodeSelector picks all.
type NodeSelector struct {
	// MatchLabels are labels that a node must have, all of them. What every node
	// has by itself can be asked for too: [NodeLabels].
	MatchLabels map[string]string `yaml:"matchLabels" json:"matchLabels"`
}

// The labels that a node has by itself: its name, and where its file says that
// it runs.
const (
	NodeLabel   = "node"
	RegionLabel = "region"
	RackLabel   = "rack"
)

// NodeLabels are the labels that a node has by itself, in order.
var NodeLabels = []string{NodeLabel, RegionLabel, RackLabel}

// Matches reports whether a node has all the labels that are asked for.
func (s NodeSelector) Matches(name, region, rack string, labels map[string]string) bool {
	for key, want := range s.MatchLabels {
		var has string
		switch key {
		case NodeLabel:
			has = name
		case RegionLabel:
			has = region
		case RackLabel:
			has = rack
		default:
			has = labels[key]
		}
		if has != want {
			return false
		}
	}
	return true
}

// labelText is a key or a value of a node's label, a region or a rack.
var labelText = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._/-]{0,61}[a-zA-Z0-9])?$`)

// LabelFix is what to write for a text that is not [ValidLabel].
const LabelFix = `use up to 63 letters, digits, "-", "_", "." and "/", not at the ends`

// ValidLabel reports whether a text can be a key or a value of a node's label, a
// region or a rack.
func ValidLabel(text string) bool { return labelText.MatchString(text) }

// location checks where something is; absent is fine.
func (v *validator) location(path, value string) {
	if (value != "" || v.written(path)) && !ValidLabel(value) {
		v.fault(path, fmt.Sprintf("%q cannot be compared with that of a node", value), LabelFix)
	}
}

func (v *validator) placement(p *Placement) {
	path := "spec.placement.nodes.matchLabels"
	if len(p.Nodes.MatchLabels) == 0 {
		v.fault(path, "asks for no label", "name one, or remove spec.placement to use all nodes")
	}
	for _, key := range slices.Sorted(maps.Keys(p.Nodes.MatchLabels)) {
		value := p.Nodes.MatchLabels[key]
		if !ValidLabel(key) {
			v.fault(path, fmt.Sprintf("%q is not a label of a node", key), LabelFix)
		} else if !ValidLabel(value) {
			v.fault(path+"."+key, fmt.Sprintf("%q is not a label's value", value), LabelFix)
		}
	}
}
