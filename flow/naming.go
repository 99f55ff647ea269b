package flow

import "strings"

// Naming maps a source topic's name to the destination's. The zero Naming keeps
// names. Every Naming can be undone: what is put around a name is fixed.
type Naming struct {
	// Prefix is put before the name.
	Prefix string `yaml:"prefix,omitempty" json:"prefix,omitempty"`
	// Template, instead of Prefix, is the destination's name with [NamePlace] where
	// the source's stands.
	Template string `yaml:"template,omitempty" json:"template,omitempty"`
}

// NamePlace stands in a [Naming.Template] for the source topic's name.
const NamePlace = "${topic}"

// MaxTopicName is the length in bytes of the longest topic name that Kafka takes.
const MaxTopicName = 249

// Destination is the name of source topic's copy. It may be longer than
// [MaxTopicName]; the destination then refuses it.
func (n Naming) Destination(topic string) string { return n.affix().around(topic) }

// Source is the inverse of [Naming.Destination]; ok is false for names that this
// Naming does not make.
func (n Naming) Source(topic string) (name string, ok bool) {
	a := n.affix()
	name, before := strings.CutPrefix(topic, a.prefix)
	name, behind := strings.CutSuffix(name, a.suffix)
	return name, before && behind && name != ""
}

// affix is what is put around a name.
type affix struct{ prefix, suffix string }

func (n Naming) affix() affix {
	if prefix, suffix, ok := strings.Cut(n.Template, NamePlace); ok {
		return affix{prefix, suffix}
	}
	return affix{prefix: n.Prefix}
}

func (a affix) around(name string) string { return a.prefix + name + a.suffix }

// within is what is put around a name that first a and then outer is put around.
func (a affix) within(outer affix) affix {
	return affix{outer.prefix + a.prefix, a.suffix + outer.suffix}
}
