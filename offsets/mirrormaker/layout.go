package mirrormaker

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// version heads the values of checkpoints and heartbeats; offset syncs have none.
const version = 0

// text appends a string as Kafka's protocol has it: a length of two bytes, then UTF-8.
func text(dst []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(s))), s...)
}

// fits says that a string can be written as text.
func fits(s string) error {
	if len(s) > math.MaxInt16 {
		return fmt.Errorf("%.40q... has %d bytes, more than %d", s, len(s), math.MaxInt16)
	}
	return nil
}

// Checkpoint is where a group lies at the destination.
type Checkpoint struct {
	Group      string
	Topic      string // of the destination
	Partition  int32
	Upstream   int64 // offset at the source
	Downstream int64 // and at the destination
	Metadata   string
}

func (c Checkpoint) key() []byte {
	return binary.BigEndian.AppendUint32(text(text(nil, c.Group), c.Topic), uint32(c.Partition))
}

func (c Checkpoint) value() []byte {
	b := binary.BigEndian.AppendUint16(nil, version)
	b = binary.BigEndian.AppendUint64(b, uint64(c.Upstream))
	b = binary.BigEndian.AppendUint64(b, uint64(c.Downstream))
	return text(b, c.Metadata)
}

// OffsetSync is a record at the source and its copy.
type OffsetSync struct {
	Topic      string // of the source
	Partition  int32
	Upstream   int64
	Downstream int64
}

func (s OffsetSync) key() []byte {
	return binary.BigEndian.AppendUint32(text(nil, s.Topic), uint32(s.Partition))
}

func (s OffsetSync) value() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.Upstream))
	return binary.BigEndian.AppendUint64(b, uint64(s.Downstream))
}

// heartbeat says that a flow from one cluster to another is alive.
type heartbeat struct {
	source, destination string // aliases
	at                  time.Time
}

func (h heartbeat) key() []byte { return text(text(nil, h.source), h.destination) }

func (h heartbeat) value() []byte {
	b := binary.BigEndian.AppendUint16(nil, version)
	return binary.BigEndian.AppendUint64(b, uint64(h.at.UnixMilli()))
}
