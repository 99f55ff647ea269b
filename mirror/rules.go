package mirror

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/filter"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/mask"
	"github.com/waybillhq/waybill/internal/record"
)

// rules are what a flow's declaration says of its records, ready to be applied. Nil
// says nothing. They are safe for concurrent use.
type rules struct {
	filter     *filter.Filter // nil: all pass
	masks      []maskStep
	headers    bool
	codec      record.Codec // of all batches, if recode
	recode     bool
	quarantine bool // what cannot be copied is put aside
}

type maskStep struct {
	key  bool
	rule mask.Rule
}

// newRules makes rules of a declaration; of none such that say nothing. Secrets are
// read now, and not again while the flow runs.
func newRules(r *flow.Records) (*rules, error) {
	if r == nil {
		return &rules{}, nil
	}
	out := &rules{headers: r.Headers, quarantine: r.Poison == flow.PoisonQuarantine}
	if r.Filter != "" {
		f, err := filter.Compile(r.Filter)
		if err != nil {
			return nil, fmt.Errorf("spec.records.filter: %w", err)
		}
		out.filter = f
	}
	for i, m := range r.Mask {
		s := maskStep{key: m.In == flow.MaskKey, rule: mask.Rule{Replace: m.Replace}}
		var err error
		if m.Field != "" {
			s.rule.Path, err = mask.ParsePath(m.Field)
		}
		if err == nil && m.Hash != "" {
			var secret string
			if secret, err = kafka.ResolveSecret(m.Hash); err == nil && secret == "" {
				err = fmt.Errorf("%s is empty", m.Hash)
			}
			s.rule.Key = []byte(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("spec.records.mask[%d]: %w", i, err)
		}
		out.masks = append(out.masks, s)
	}
	for c := record.None; c <= record.Zstd; c++ {
		if r.Compression == c.String() {
			out.codec, out.recode = c, true
		}
	}
	return out, nil
}

// alter says that records are changed, so that none travels as bytes.
func (r *rules) alter() bool { return r != nil && (r.headers || len(r.masks) > 0) }

// look says that records have to be looked at before it is known how they travel.
func (r *rules) look() bool { return r != nil && (r.filter != nil || r.alter()) }

// codecOf is the codec for what comes of a batch that has another at the source.
func (r *rules) codecOf(source record.Codec) record.Codec {
	if r != nil && r.recode {
		return r.codec
	}
	return source
}

func (r *rules) aside() bool { return r != nil && r.quarantine }

// home is where the records of a copy come from.
type home struct {
	cluster   string // cluster.id
	topic     string
	partition int32
}

// headers tell where a record is from.
func (h home) headers(offset, timestamp int64) []record.Header {
	number := func(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
	return []record.Header{
		{Key: record.HeaderSourceCluster, Value: []byte(h.cluster)},
		{Key: record.HeaderSourceTopic, Value: []byte(h.topic)},
		{Key: record.HeaderSourcePartition, Value: number(int64(h.partition))},
		{Key: record.HeaderSourceOffset, Value: number(offset)},
		{Key: record.HeaderSourceTimestamp, Value: number(timestamp)},
	}
}

// pass says whether the filter lets a record pass.
func (r *rules) pass(from home, rec *record.Record) (bool, error) {
	if r == nil || r.filter == nil {
		return true, nil
	}
	return r.filter.Match(from.topic, from.partition, rec)
}

// apply is a record masked and with its headers. It shares what is not changed.
func (r *rules) apply(from home, rec record.Record) (record.Record, error) {
	if r == nil {
		return rec, nil
	}
	for i := range r.masks {
		m := &r.masks[i]
		part, what := &rec.Value, "value"
		if m.key {
			part, what = &rec.Key, "key"
		}
		masked, err := m.rule.Apply(*part)
		if err != nil {
			return rec, fmt.Errorf("a field of the %s is to be masked, and it %w", what, err)
		}
		*part = masked
	}
	if r.headers {
		own := rec.Headers
		rec.Headers = append(own[:len(own):len(own)], from.headers(rec.Offset, rec.Timestamp)...)
	}
	return rec, nil
}

// rulesText is what the ledger is told of a flow's rules; "" where records are
// copied as they are.
func rulesText(spec *flow.ReplicationFlow) string {
	if spec == nil || spec.Spec.Records == nil {
		return ""
	}
	text, err := json.Marshal(spec.Spec.Records)
	if err != nil { // texts, numbers and lists of them
		panic("mirror: rules as JSON: " + err.Error())
	}
	return string(text)
}
