package flow

import "strings"

// Naming maps a source topic's name to the destination's. The zero Naming keeps
// names.
type Naming struct {
	Prefix string `yaml:"prefix,omitempty" json:"prefix,omitempty"`
}

// MaxTopicName is the length in bytes of the longest topic name that Kafka takes.
const MaxTopicName = 249

// Destination is the name of source topic's copy. It may be longer than
// [MaxTopicName]; the destination then refuses it.
func (n Naming) Destination(topic string) string { return n.Prefix + topic }

// Source is the inverse of [Naming.Destination]; ok is false for names that this
// Naming does not make.
func (n Naming) Source(topic string) (name string, ok bool) {
	name, ok = strings.CutPrefix(topic, n.Prefix)
	return name, ok && name != ""
}
