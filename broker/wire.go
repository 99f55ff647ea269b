package broker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A frame is a length (int32) and as many bytes: a request header and a body.
// The header is key, version (int16 each), correlation id (int32), client id
// (nullable string with an int16 length, in every version) and, for flexible
// requests (KIP-482), tagged fields.
const (
	frameLengthSize = 4
	// minFrame is a header without client id, which is as short as any request.
	minFrame = 8
	// firstChunk bounds what a length alone can make us allocate.
	firstChunk = 64 << 10
)

// errFrame says that a peer sent bytes that are not a request. The connection
// cannot be used any more.
var errFrame = errors.New("malformed request")

// frameReader reads frames off one connection.
type frameReader struct {
	r *bufio.Reader
	// limit is the greatest length of a frame with this API key; 0 refuses it.
	limit func(key int16) int
	// room, if set, gives the memory for a frame of a size: more than have, which
	// it begins with.
	room func(key int16, have []byte, size int) ([]byte, error)
	// expect, if set, is told how many bytes are read next.
	expect func(n int) error
}

// next reads one frame. Before it allocates it knows that the length is within
// the limit of the frame's API key, and it allocates no more than twice what
// has arrived, unless room gives more. It returns io.EOF only between frames.
func (f frameReader) next() ([]byte, error) {
	size, err := f.length()
	if err != nil {
		return nil, err
	}
	if size < minFrame {
		return nil, fmt.Errorf("%w: frame of %d bytes", errFrame, size)
	}
	peek, err := f.r.Peek(2)
	if err != nil {
		return nil, noEOF(err)
	}
	key := int16(binary.BigEndian.Uint16(peek))
	switch limit := f.limit(key); {
	case limit == 0:
		return nil, fmt.Errorf("%w: api key %d is not accepted here", errFrame, key)
	case size > limit:
		return nil, fmt.Errorf("%w: %s of %d bytes, %d is the limit", errFrame, apiName(kmsg.Key(key)), size, limit)
	}
	return f.body(key, size)
}

// fill reads the next piece of a frame.
func (f frameReader) fill(piece []byte) error {
	if f.expect != nil {
		if err := f.expect(len(piece)); err != nil {
			return err
		}
	}
	_, err := io.ReadFull(f.r, piece)
	return noEOF(err)
}

// token reads one SASL token of a client that does not wrap them into requests
// (SaslHandshake v0).
func (f frameReader) token(limit int) ([]byte, error) {
	size, err := f.length()
	if err != nil {
		return nil, err
	}
	if size < 0 || size > limit {
		return nil, fmt.Errorf("%w: sasl token of %d bytes", errFrame, size)
	}
	return f.body(-1, size)
}

func (f frameReader) length() (int, error) {
	var head [frameLengthSize]byte
	if _, err := io.ReadFull(f.r, head[:1]); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(f.r, head[1:]); err != nil {
		return 0, noEOF(err)
	}
	return int(int32(binary.BigEndian.Uint32(head[:]))), nil
}

func (f frameReader) body(key int16, size int) (buf []byte, err error) {
	room := f.room
	if room == nil {
		room = func(_ int16, have []byte, size int) ([]byte, error) { return enlarged(have, size), nil }
	}
	for read := 0; read < size; {
		if read == len(buf) {
			if buf, err = room(key, buf, size); err != nil {
				return nil, err
			}
		}
		piece := buf[read:min(len(buf), read+max(firstChunk, read))]
		if err := f.fill(piece); err != nil {
			return nil, err
		}
		read += len(piece)
	}
	return buf, nil
}

// nextRoom is how much memory a frame has after have bytes of it.
func nextRoom(have, size int) int { return min(size, max(firstChunk, 2*have)) }

func enlarged(have []byte, size int) []byte {
	buf := make([]byte, nextRoom(len(have), size))
	copy(buf, have)
	return buf
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// header is the fixed part of a request header.
type header struct {
	key, version int16
	correlation  int32
}

func frameHeader(frame []byte) header {
	return header{
		key:         int16(binary.BigEndian.Uint16(frame)),
		version:     int16(binary.BigEndian.Uint16(frame[2:])),
		correlation: int32(binary.BigEndian.Uint32(frame[4:])),
	}
}

// decodeRequest reads what follows the fixed part of the header into req, whose
// version is set and has the given form. The request shares the frame's memory.
func decodeRequest(frame []byte, req kmsg.Request, form *shape) (clientID string, err error) {
	return decodeWithin(frame, req, form, func(int) error { return nil })
}

// decodeWithin is decodeRequest that asks afford for the memory first.
func decodeWithin(frame []byte, req kmsg.Request, form *shape, afford func(memory int) error) (clientID string, err error) {
	rest := frame[minFrame:]
	if len(rest) < 2 {
		return "", fmt.Errorf("%w: no client id", errFrame)
	}
	n := int(int16(binary.BigEndian.Uint16(rest)))
	rest = rest[2:]
	if n > len(rest) || n < -1 {
		return "", fmt.Errorf("%w: client id of %d bytes", errFrame, n)
	}
	if n > 0 {
		clientID, rest = string(rest[:n]), rest[n:]
	}
	if req.IsFlexible() {
		if rest, err = skipTags(rest); err != nil {
			return "", err
		}
	}
	memory, ok := form.measure(rest)
	if !ok {
		return "", fmt.Errorf("%w: %s v%d claims more than it has", errFrame, apiName(kmsg.Key(req.Key())), req.GetVersion())
	}
	if err := afford(memory); err != nil {
		return "", err
	}
	if err := req.ReadFrom(rest); err != nil {
		return "", fmt.Errorf("%w: %s v%d: %v", errFrame, apiName(kmsg.Key(req.Key())), req.GetVersion(), err) //nolint:errorlint // the codec's errors carry nothing to branch on
	}
	return clientID, nil
}

// skipTags returns what follows a run of tagged fields. A header's tags mean
// nothing to us.
func skipTags(b []byte) ([]byte, error) {
	w := walker{buf: b}
	w.tags(nil)
	if w.bad {
		return nil, fmt.Errorf("%w: header tags", errFrame)
	}
	return w.buf, nil
}

// appendResponse appends a whole response frame to dst. The response header is
// flexible when the body is, except that of ApiVersions, which must be readable
// by a client that does not know yet what we speak (KIP-511).
func appendResponse(dst []byte, correlation int32, resp kmsg.Response) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(correlation))
	if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
		dst = append(dst, 0)
	}
	dst = resp.AppendTo(dst)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-frameLengthSize))
	return dst
}
