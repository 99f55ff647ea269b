package record

import (
	"encoding/binary"
	"math"
)

// Outline is what a record says of itself beside its contents.
type Outline struct {
	TimestampDelta int64 // milliseconds, to the batch's base
	OffsetDelta    int32
	HasKey         bool
}

// Walker steps over the records of a decompressed section without taking them
// apart. It refuses what [Batch.Decode] refuses.
type Walker struct{ r reader }

// NewWalker is at the first record of a section.
func NewWalker(section []byte) Walker { return Walker{reader{buf: section}} }

// Next steps over one record. fault is empty, or says what is wrong with it; then
// nothing can be said of those behind it.
func (w *Walker) Next() (o Outline, fault string) {
	body, o := w.r.begin()
	if w.r.bad != "" {
		return Outline{}, w.r.bad
	}
	o.HasKey = body.skip("key")
	body.skip("value")
	for range body.headers() {
		body.headerKey()
		body.skip("header value")
	}
	w.r.bad = body.end()
	return o, w.r.bad
}

// Rest is how many bytes lie behind the last record that was stepped over.
func (w *Walker) Rest() int { return len(w.r.buf) }

// reader consumes a decompressed records section; after the first fault bad
// says what is wrong and everything reads as zero.
type reader struct {
	buf []byte
	bad string
}

// begin reads what stands before a record's contents, which body is left with.
func (r *reader) begin() (body reader, o Outline) {
	size := r.varint("record length")
	if r.bad == "" && (size < 0 || int(size) > len(r.buf)) {
		r.fail("record runs past the batch")
	}
	if r.bad != "" {
		return reader{bad: r.bad}, Outline{}
	}
	body = reader{buf: r.buf[:size]}
	r.buf = r.buf[size:]
	body.take(1, "record attributes")
	o.TimestampDelta = body.varlong("timestamp delta")
	o.OffsetDelta = body.varint("offset delta")
	return body, o
}

// headers is how many headers follow.
func (r *reader) headers() int32 {
	n := r.varint("header count")
	if n < 0 || int(n) > len(r.buf) {
		r.fail("more headers than bytes")
		return 0
	}
	return n
}

// end says what is wrong with a record whose fields are read, if anything.
func (r *reader) end() string {
	if len(r.buf) != 0 {
		r.fail("record is longer than its fields")
	}
	return r.bad
}

// maxVarint is how many bytes Kafka's clients read of a 32-bit number: one more
// is an error to them, also where the number is small.
const maxVarint = binary.MaxVarintLen32

func (r *reader) varint(what string) int32 {
	v, n := binary.Varint(r.buf)
	if n <= 0 || n > maxVarint || v < math.MinInt32 || v > math.MaxInt32 {
		r.fail(what + " is not readable")
		return 0
	}
	r.buf = r.buf[n:]
	return int32(v)
}

func (r *reader) varlong(what string) int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		r.fail(what + " is not readable")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) take(n int32, what string) []byte {
	if r.bad != "" || n < 0 || int(n) > len(r.buf) {
		r.fail(what + " is not readable")
		return nil
	}
	out := r.buf[:n:n]
	r.buf = r.buf[n:]
	return out
}

// bytes reads a length and as many bytes; null is nil.
func (r *reader) bytes(what string) []byte {
	n := r.varint(what)
	if n == -1 {
		return nil
	}
	return r.take(n, what)
}

// skip is bytes for who does not need them; it reports false for null.
func (r *reader) skip(what string) bool {
	n := r.varint(what)
	if n == -1 {
		return false
	}
	r.take(n, what)
	return true
}

// headerKey is never null.
func (r *reader) headerKey() []byte { return r.take(r.varint("header key"), "header key") }

func (r *reader) fail(why string) {
	if r.bad == "" {
		r.bad = why
	}
	r.buf = nil
}
