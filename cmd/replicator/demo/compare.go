package demo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Verdict is what a comparison of two logs found. All zero but Compared is a
// faithful copy.
type Verdict struct {
	Compared   int `json:"compared"`   // records of the source
	Missing    int `json:"missing"`    // of the source, not at the destination
	Duplicated int `json:"duplicated"` // at the destination once more
	Reordered  int `json:"reordered"`  // at the destination before one that it followed
	Mismatched int `json:"mismatched"` // at the destination with another key, value, header or timestamp
	Phantom    int `json:"phantom"`    // at the destination, never at the source

	// First says where the first difference is.
	First string `json:"first,omitempty"`
}

// OK says whether the copy is faithful.
func (v Verdict) OK() bool {
	return v.Missing+v.Duplicated+v.Reordered+v.Mismatched+v.Phantom == 0
}

func (v *Verdict) add(o Verdict) {
	v.Compared += o.Compared
	v.Missing += o.Missing
	v.Duplicated += o.Duplicated
	v.Reordered += o.Reordered
	v.Mismatched += o.Mismatched
	v.Phantom += o.Phantom
	if v.First == "" {
		v.First = o.First
	}
}

// Log is the records of one topic, by partition, in offset order.
type Log map[int32][]*kgo.Record

// Compare holds a destination log against its source, partition by partition,
// and within each every record by its whole content: key, value, headers and
// timestamp, with null apart from empty. The order of the destination's records
// must be the source's. Records that are equal to the last bit are told apart by
// their order only.
func Compare(source, destination Log) Verdict {
	var total Verdict
	for p, want := range source {
		total.add(comparePartition(want, destination[p]))
	}
	for p, got := range destination {
		if _, ok := source[p]; !ok {
			total.add(comparePartition(nil, got))
		}
	}
	return total
}

func comparePartition(want, got []*kgo.Record) Verdict {
	v := Verdict{Compared: len(want)}
	differ := func(count *int, what string, r *kgo.Record) {
		*count++
		if v.First == "" {
			v.First = fmt.Sprintf("%s/%d@%d %s", r.Topic, r.Partition, r.Offset, what)
		}
	}
	places := make(map[[32]byte][]int, len(want)) // content -> its places at the source, ascending
	for i, r := range want {
		c := content(r)
		places[c] = append(places[c], i)
	}
	var strangers []*kgo.Record // at the destination, with no like at the source
	taken := make([]bool, len(want))
	last := -1
	for _, r := range got {
		c := content(r)
		at := places[c]
		switch {
		case len(at) > 0:
			i := at[0]
			places[c] = at[1:]
			taken[i] = true
			if i < last {
				differ(&v.Reordered, "comes too late", r)
			}
			last = max(last, i)
		case at != nil:
			differ(&v.Duplicated, "is a duplicate", r)
		default:
			strangers = append(strangers, r)
		}
	}
	var lost []*kgo.Record
	for i, r := range want {
		if !taken[i] {
			lost = append(lost, r)
		}
	}
	// A record that is lost while a stranger stands for it was altered on the
	// way: pair them in order, and what is left over on a side is what it is.
	altered := min(len(lost), len(strangers))
	for i := range altered {
		differ(&v.Mismatched, "is not what "+fmt.Sprintf("%s/%d@%d", lost[i].Topic, lost[i].Partition, lost[i].Offset)+" is", strangers[i])
	}
	for _, r := range lost[altered:] {
		differ(&v.Missing, "has no copy", r)
	}
	for _, r := range strangers[altered:] {
		differ(&v.Phantom, "has no source", r)
	}
	return v
}

// content is a digest of all that a record carries; lengths keep fields apart.
func content(r *kgo.Record) [32]byte {
	var b bytes.Buffer
	field := func(f []byte) {
		n := int64(len(f))
		if f == nil {
			n = -1
		}
		_ = binary.Write(&b, binary.BigEndian, n) // a bytes.Buffer does not fail
		b.Write(f)
	}
	_ = binary.Write(&b, binary.BigEndian, r.Timestamp.UnixMilli())
	field(r.Key)
	field(r.Value)
	for _, h := range r.Headers {
		field([]byte(h.Key))
		field(h.Value)
	}
	return sha256.Sum256(b.Bytes())
}
