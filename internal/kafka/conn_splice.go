package kafka

import (
	"encoding/binary"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Splicer is a request with large byte fields, which are written to the socket from
// where they are.
type Splicer interface {
	kmsg.Request
	// Splice is AppendTo, but for the contents of its large byte fields: it calls field
	// with each of them and what was appended to dst until then.
	Splice(dst []byte, field func(until, contents []byte)) []byte
}

// cut is what belongs into a head, and where. The head may move while it grows, so that
// cuts are positions until it is complete.
type cut struct {
	at       int
	contents []byte
}

// spliced is a head and what belongs into it, as buffers to be written one after the other.
func spliced(head []byte, cuts []cut) net.Buffers {
	bufs := make(net.Buffers, 0, 2*len(cuts)+1)
	from := 0
	for _, k := range cuts {
		bufs = append(bufs, head[from:k.at], k.contents)
		from = k.at
	}
	if from < len(head) {
		bufs = append(bufs, head[from:])
	}
	return bufs
}

// headOf is a request without its large byte fields.
type headOf struct {
	Splicer
	cuts []cut
}

// AppendTo appends all but the large fields, and takes note of these.
func (h *headOf) AppendTo(dst []byte) []byte {
	return h.Splice(dst, func(until, contents []byte) { h.cuts = append(h.cuts, cut{len(until), contents}) })
}

// encodeSpliced lays a request out as buffers. It appends to head, and returns it for
// another use.
func (c *Conn) encodeSpliced(req Splicer, corr int32, head []byte) (net.Buffers, []byte) {
	h := &headOf{Splicer: req}
	head = c.formatter.AppendRequest(head, h, corr)
	size := len(head) - 4
	for _, k := range h.cuts {
		size += len(k.contents)
	}
	binary.BigEndian.PutUint32(head, uint32(size))
	return spliced(head, h.cuts), head
}
