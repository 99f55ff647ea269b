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
	// reserve, if set, is asked before a frame's body is read.
	reserve func(size int) error
}

// next reads one frame. Before it allocates it knows that the length is within
// the limit of the frame's API key, and it allocates no more than twice what
// has arrived. It returns io.EOF only between frames.
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
		return nil, fmt.Errorf("%w: frame of %d bytes, %d is the limit for api key %d", errFrame, size, limit, key)
	}
	if f.reserve != nil {
		if err := f.reserve(size); err != nil {
			return nil, err
		}
	}
	return f.body(size)
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
	return f.body(size)
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

func (f frameReader) body(size int) ([]byte, error) {
	buf := make([]byte, min(size, firstChunk))
	read := 0
	for {
		n, err := io.ReadFull(f.r, buf[read:])
		read += n
		if err != nil {
			return nil, noEOF(err)
		}
		if read == size {
			return buf, nil
		}
		grown := make([]byte, min(size, 2*len(buf)))
		copy(grown, buf)
		buf = grown
	}
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
// version is set. The request shares the frame's memory.
func decodeRequest(frame []byte, req kmsg.Request) (clientID string, err error) {
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
	if p, ok := req.(*kmsg.ProduceRequest); ok {
		if err := scanProduce(rest, p.Version); err != nil {
			return "", err
		}
	}
	if err := req.ReadFrom(rest); err != nil {
		return "", fmt.Errorf("%w: %s v%d: %v", errFrame, kmsg.NameForKey(req.Key()), req.GetVersion(), err) //nolint:errorlint // the codec's errors carry nothing to branch on
	}
	return clientID, nil
}

// skipTags returns what follows a run of tagged fields. A header's tags mean
// nothing to us.
func skipTags(b []byte) ([]byte, error) {
	s := scanner{buf: b}
	s.tags()
	if s.bad {
		return nil, fmt.Errorf("%w: header tags", errFrame)
	}
	return s.buf, nil
}

// scanProduce walks the arrays of a Produce request without allocating, so that
// counts that the bytes do not bear out are refused before the codec trusts
// them. Other requests are bounded by their small frames instead.
func scanProduce(body []byte, version int16) error {
	s := scanner{buf: body, flexible: version >= 9}
	if version >= 3 {
		s.string() // transactional id
	}
	s.skip(2 + 4)
	for range s.array() {
		if version >= 13 {
			s.skip(16)
		} else {
			s.string()
		}
		for range s.array() {
			s.skip(4)
			s.bytes()
			s.endStruct()
			if s.bad {
				break
			}
		}
		s.endStruct()
		if s.bad {
			break
		}
	}
	if s.bad {
		return fmt.Errorf("%w: arrays of a Produce request", errFrame)
	}
	return nil
}

// scanner walks primitive types; after the first fault bad is set and nothing
// is left.
type scanner struct {
	buf      []byte
	flexible bool
	bad      bool
	elements int // of all arrays so far
}

// maxProduceElements bounds topics plus partitions of one Produce request. An
// element takes 8 bytes on the wire and 64 in memory.
const maxProduceElements = 1 << 17

func (s *scanner) skip(n int) []byte {
	if s.bad || n < 0 || n > len(s.buf) {
		s.bad, s.buf = true, nil
		return nil
	}
	out := s.buf[:n]
	s.buf = s.buf[n:]
	return out
}

func (s *scanner) uvarint() int {
	v, n := binary.Uvarint(s.buf)
	if n <= 0 || v > 1<<31 {
		s.bad, s.buf = true, nil
		return 0
	}
	s.buf = s.buf[n:]
	return int(v)
}

// length reads a compact length, or one of size bytes; null is -1.
func (s *scanner) length(size int) int {
	if s.flexible {
		return s.uvarint() - 1
	}
	b := s.skip(size)
	switch {
	case b == nil:
		return 0
	case size == 2:
		return int(int16(binary.BigEndian.Uint16(b)))
	}
	return int(int32(binary.BigEndian.Uint32(b)))
}

func (s *scanner) string() { s.skip(max(0, s.length(2))) }
func (s *scanner) bytes()  { s.skip(max(0, s.length(4))) }

// array reads a count. An element has at least four bytes here, and a count
// that the rest cannot hold is a fault.
func (s *scanner) array() int {
	n := max(0, s.length(4))
	s.elements += n
	if n > len(s.buf)/4 || s.elements > maxProduceElements {
		s.bad, s.buf = true, nil
		return 0
	}
	return n
}

func (s *scanner) endStruct() {
	if s.flexible {
		s.tags()
	}
}

func (s *scanner) tags() {
	for n := s.uvarint(); n > 0 && !s.bad; n-- {
		s.uvarint()
		s.skip(s.uvarint())
	}
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
