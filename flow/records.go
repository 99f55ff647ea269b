package flow

import (
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/filter"
	"github.com/waybillhq/waybill/internal/mask"
)

// Records says which records of the picked topics are copied, what is changed in
// them, and what becomes of those that cannot be copied. Without it they are
// copied as they are, and one that cannot be stops its copy.
type Records struct {
	// Filter is an expression (see internal/filter) that is true for what is copied.
	Filter string `yaml:"filter,omitempty" json:"filter,omitempty"`
	// Mask are applied in their order to what the filter lets pass.
	Mask []MaskRule `yaml:"mask,omitempty" json:"mask,omitempty"`
	// Headers adds to each record where it comes from.
	Headers bool `yaml:"headers,omitempty" json:"headers,omitempty"`
	// Compression is [CompressionPreserve], or the codec of every batch.
	Compression string `yaml:"compression,omitempty" json:"compression,omitempty"`
	// Poison is [PoisonStop] or [PoisonQuarantine].
	Poison string `yaml:"poison,omitempty" json:"poison,omitempty"`
	// Quarantine is the topic of the destination that takes poison records; its
	// default is [QuarantineTopic].
	Quarantine string `yaml:"quarantine,omitempty" json:"quarantine,omitempty"`
}

// MaskRule masks one field: exactly one of Replace, Hash and Remove is set.
type MaskRule struct {
	// Field is a path in JSON (see internal/mask); without it the whole is meant.
	Field string `yaml:"field,omitempty" json:"field,omitempty"`
	// In is [MaskValue] or [MaskKey].
	In      string  `yaml:"in,omitempty" json:"in,omitempty"`
	Replace *string `yaml:"replace,omitempty" json:"replace,omitempty"`
	Hash    Secret  `yaml:"hash,omitempty" json:"hash,omitempty"` // the key
	Remove  bool    `yaml:"remove,omitempty" json:"remove,omitempty"`
}

// Values of [Records] and [MaskRule].
const (
	CompressionPreserve = "preserve"
	PoisonStop          = "stop"
	PoisonQuarantine    = "quarantine"
	MaskValue           = "value"
	MaskKey             = "key"
)

// Compressions are the values of [Records].Compression: besides preserve the names
// that Kafka's compression.type has.
var Compressions = []string{CompressionPreserve, "none", "gzip", "snappy", "lz4", "zstd"}

// QuarantineTopic is where a flow's poison records go if nothing else is said.
// Internal topics are never copied, so it stays where it is.
func QuarantineTopic(flow string) string { return InternalPrefix + "waybill.quarantine." + flow }

func (r *Records) fillDefaults(flow string) {
	setDefault(&r.Compression, CompressionPreserve)
	setDefault(&r.Poison, PoisonStop)
	if r.Poison == PoisonQuarantine {
		setDefault(&r.Quarantine, QuarantineTopic(flow))
	}
	for i := range r.Mask {
		setDefault(&r.Mask[i].In, MaskValue)
	}
}

// maxMasks bounds the rules of a flow: each is a walk through each record.
const maxMasks = 100

func (v *validator) records(r *Records) {
	const path = "spec.records"
	if r.Filter != "" || v.written(path+".filter") {
		if _, err := filter.Compile(r.Filter); err != nil {
			v.fault(path+".filter", err.Error(), `write one that is true for what is copied, like headers["region"] == "eu"`)
		}
	}
	if len(r.Mask) > maxMasks {
		v.fault(path+".mask", fmt.Sprintf("has %d rules", len(r.Mask)), fmt.Sprintf("at most %d are allowed", maxMasks))
	}
	for i := range r.Mask {
		v.maskRule(&r.Mask[i], fmt.Sprintf("%s.mask[%d]", path, i))
	}
	v.oneOf(path+".compression", r.Compression, false, Compressions...)
	v.oneOf(path+".poison", r.Poison, false, PoisonStop, PoisonQuarantine)
	switch {
	case r.Quarantine == "" && !v.written(path+".quarantine"):
	case r.Poison != PoisonQuarantine:
		v.fault(path+".quarantine", "is a topic that nothing goes to", "write poison: "+PoisonQuarantine+" beside it, or remove the key")
	case r.Quarantine == "" || len(r.Quarantine) > MaxTopicName || !topicName.MatchString(r.Quarantine) || slices.Contains([]string{".", ".."}, r.Quarantine):
		v.fault(path+".quarantine", fmt.Sprintf("%q is not the name of a topic", r.Quarantine), "use letters, digits, dot, underscore and dash, or remove the key for a topic of the flow's own")
	}
}

func (v *validator) maskRule(m *MaskRule, path string) {
	if m.Field != "" || v.written(path+".field") {
		if _, err := mask.ParsePath(m.Field); err != nil {
			v.fault(path+".field", err.Error(), `write names with dots between them, like customer.email; a dot in a name is written \.`)
		}
	}
	v.oneOf(path+".in", m.In, false, MaskValue, MaskKey)
	n := 0
	for _, set := range []bool{m.Replace != nil, m.Hash != "" || v.written(path+".hash"), m.Remove} {
		if set {
			n++
		}
	}
	if n != 1 {
		v.fault(path, fmt.Sprintf("says %d times what becomes of the field", n), `write one of replace: "***", hash: ${file:PATH} and remove: true`)
	}
	if m.Hash != "" || v.written(path+".hash") {
		if _, err := ParseSecret(string(m.Hash)); err != nil {
			fix := asMistake(err)
			v.fault(path+".hash", fix.message, fix.fix)
		}
	}
}
