package broker

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/commitlog"
)

// fetchAnswer is a Fetch response whose records are still in their files. The
// codec encodes it with a mark of a few bytes in place of the records of each
// partition; what is sent is the encoded bytes with the marks replaced by the
// records, which go from the file to the socket without being read, where the
// system can do that. However large the answer, and however slow the client, it
// holds the encoded rest and at most one buffer.
type fetchAnswer struct {
	*kmsg.FetchResponse
	ranges []commitlog.Range // by mark
}

// A mark is random bytes of this process and a number, so that nothing that a
// client can have put into an answer looks like one.
const markSize = 16

type mark [markSize]byte

var markOf = func() func(i int) mark {
	var m mark
	rand.Read(m[:])
	return func(i int) mark {
		numbered := m
		binary.BigEndian.PutUint32(numbered[markSize-4:], uint32(i))
		return numbered
	}
}()

// stand returns what stands for a range in the response.
func (a *fetchAnswer) stand(r commitlog.Range) []byte {
	m := markOf(len(a.ranges))
	a.ranges = append(a.ranges, r)
	return m[:]
}

// release lets go of the files.
func (a *fetchAnswer) release() {
	for _, r := range a.ranges {
		r.Release()
	}
	a.ranges = nil
}

var errMark = errors.New("the codec has lost a mark")

// writeTo writes the whole frame.
func (a *fetchAnswer) writeTo(w *answerWriter, correlation int32) error {
	frame := appendResponse(w.encoded[:0], correlation, a.FetchResponse)
	w.encoded = frame
	size := len(frame) - frameLengthSize
	for _, r := range a.ranges {
		size += int(r.Size()) - markSize + a.lengthSize(int(r.Size())) - a.lengthSize(markSize)
	}
	binary.BigEndian.PutUint32(frame, uint32(size))
	for i, r := range a.ranges {
		m := markOf(i)
		at := bytes.Index(frame, m[:])
		if at < 0 {
			return errMark
		}
		w.buf = append(w.buf, frame[:at-a.lengthSize(markSize)]...)
		w.buf = a.appendLength(w.buf, int(r.Size()))
		if err := w.send(r); err != nil {
			return fmt.Errorf("write records: %w", err)
		}
		frame = frame[at+markSize:]
	}
	w.buf = append(w.buf, frame...)
	return w.flush(false)
}

// lengthSize is how many bytes the length of n bytes takes.
func (a *fetchAnswer) lengthSize(n int) int {
	if !a.IsFlexible() {
		return 4
	}
	return (bits.Len(uint(n+1)|1) + 6) / 7
}

func (a *fetchAnswer) appendLength(dst []byte, n int) []byte {
	if !a.IsFlexible() {
		return binary.BigEndian.AppendUint32(dst, uint32(n))
	}
	return binary.AppendUvarint(dst, uint64(n+1))
}

const (
	// copyBelow is the size from which records go from file to socket by the
	// system; smaller ones are cheaper to copy into the buffer that is sent anyway.
	copyBelow = 16 << 10
	// answerBuffer is what an answer under way holds of records.
	answerBuffer = 128 << 10
	// deadlineStep is the bytes for which a client has the write timeout.
	deadlineStep = 1 << 20
)

// answerWriter writes one large answer to a connection.
type answerWriter struct {
	c       *conn
	encoded []byte // memory for the encoded answer
	buf     []byte // what is to be written next
}

var answerBuffers = sync.Pool{New: func() any { b := make([]byte, 0, answerBuffer); return &b }}

// stream writes an answer piece by piece.
func (c *conn) stream(a *fetchAnswer, correlation int32) error {
	buf := answerBuffers.Get().(*[]byte)
	w := &answerWriter{c: c, encoded: c.out, buf: (*buf)[:0]}
	err := a.writeTo(w, correlation)
	c.out = w.encoded
	if cap(w.buf) <= 2*answerBuffer { // many partitions have made it larger
		*buf = w.buf[:0]
	}
	answerBuffers.Put(buf)
	return err
}

// send writes a range, after what is in the buffer.
func (w *answerWriter) send(r commitlog.Range) error {
	if r.Size() > copyBelow {
		if err := w.flush(true); err != nil {
			return err
		}
		done, err := w.splice(r)
		if done || err != nil {
			return err
		}
	}
	for at := int64(0); at < r.Size(); {
		if len(w.buf) >= answerBuffer {
			if err := w.flush(true); err != nil {
				return err
			}
		}
		n := int(min(r.Size()-at, int64(answerBuffer-len(w.buf))))
		have := len(w.buf)
		w.buf = append(w.buf, make([]byte, n)...)
		if _, err := r.ReadAt(w.buf[have:], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// splice has the system send a range. It is not done if it cannot.
func (w *answerWriter) splice(r commitlog.Range) (done bool, err error) {
	for at := int64(0); at < r.Size(); {
		if err := w.c.extendWrite(); err != nil {
			return false, err
		}
		n, err := sendRange(w.c.nc, r, at, min(r.Size()-at, deadlineStep))
		at += n
		if errors.Is(err, errCannotSend) && at == 0 {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// flush writes the buffer; more says that something follows at once.
func (w *answerWriter) flush(more bool) error {
	err := w.c.writeAll(w.buf, more)
	w.buf = w.buf[:0]
	return err
}
