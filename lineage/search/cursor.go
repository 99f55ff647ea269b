package search

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/internal/ledger"
)

// place is where a page ended: in one partition, with those before it in order done.
// As bytes, big endian:
//
//	version u8 (1) │ search [8] │ topic id [16] │ partition u32 │ next u64 │ end u64
//
// search is of what is looked for, so that no cursor goes on with something else.
type place struct {
	search    [8]byte
	topicID   ledger.TopicID
	partition int32
	next, end int64 // offsets; next <= end
}

const (
	cursorVersion = 1
	cursorSize    = 1 + 8 + 16 + 4 + 8 + 8
)

func (p place) String() string {
	b := make([]byte, 0, cursorSize)
	b = append(append(append(b, cursorVersion), p.search[:]...), p.topicID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.partition))
	b = binary.BigEndian.AppendUint64(b, uint64(p.next))
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(b, uint64(p.end)))
}

func parseCursor(s string) (p place, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != cursorSize || b[0] != cursorVersion {
		return p, fmt.Errorf("%w: %q is no cursor of a search", ErrInvalid, shown(s))
	}
	copy(p.search[:], b[1:9])
	copy(p.topicID[:], b[9:25])
	p.partition = int32(binary.BigEndian.Uint32(b[25:]))
	p.next, p.end = int64(binary.BigEndian.Uint64(b[29:])), int64(binary.BigEndian.Uint64(b[37:]))
	if p.partition < 0 || p.next < 0 || p.end < p.next {
		return place{}, fmt.Errorf("%w: %q is no cursor of a search", ErrInvalid, shown(s))
	}
	return p, nil
}

// name is of what a query looks for, whoever asks and however much at a time.
func (q *Query) name() (id [8]byte) {
	h := sha256.New()
	for _, part := range [][]byte{
		[]byte(q.Cluster), []byte(q.Topic), q.Key, q.TraceID[:], []byte(q.Partitioner),
		[]byte(fmt.Sprint(q.Key == nil, q.Partition, q.Since.UnixMilli(), q.Until.UnixMilli())),
	} {
		h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		h.Write(part)
	}
	copy(id[:], h.Sum(nil))
	return id
}

// goOn is where a query goes on: at the cursor's place and the partitions behind it.
func (q *Query) goOn(id ledger.TopicID, partitions []int32) (at *place, rest []int32, err error) {
	if q.Cursor == "" {
		return nil, partitions, nil
	}
	p, err := parseCursor(q.Cursor)
	if err != nil {
		return nil, nil, err
	}
	i := slices.Index(partitions, p.partition)
	switch {
	case p.search != q.name():
		return nil, nil, fmt.Errorf("%w: the cursor is of another search", ErrInvalid)
	case p.topicID != id:
		return nil, nil, fmt.Errorf("%w: the topic was created again since the cursor was given: search from the start", ErrInvalid)
	case i < 0:
		return nil, nil, fmt.Errorf("%w: the cursor is in partition %d, which is not searched", ErrInvalid, p.partition)
	}
	return &p, partitions[i:], nil
}
