package record

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is the compression of a records section.
type Codec int8

// The codecs of the protocol.
const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", int8(c))
}

// ErrTooLarge says that a records section decompresses to more than the caller
// allows.
var ErrTooLarge = errors.New("records decompress to more than the limit")

var zstdDecoders = sync.Pool{New: func() any {
	// A window of 128 MiB is the most that Kafka's own clients write.
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic("record: zstd decoder options: " + err.Error())
	}
	return d
}}

// Decompress returns src decompressed, at most limit bytes of it: more is
// [ErrTooLarge]. With no compression it returns src itself.
func Decompress(codec Codec, src []byte, limit int) ([]byte, error) {
	switch codec {
	case None:
		if len(src) > limit {
			return nil, ErrTooLarge
		}
		return src, nil
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(src))
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return readAtMost(r, limit)
	case Snappy:
		return unsnappy(src, limit)
	case LZ4:
		return readAtMost(lz4.NewReader(bytes.NewReader(src)), limit)
	case Zstd:
		d := zstdDecoders.Get().(*zstd.Decoder)
		defer zstdDecoders.Put(d)
		if err := d.Reset(bytes.NewReader(src)); err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return readAtMost(d, limit)
	}
	return nil, fmt.Errorf("unknown compression %s", codec)
}

func readAtMost(r io.Reader, limit int) ([]byte, error) {
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if n > int64(limit) {
		return nil, ErrTooLarge
	}
	return out.Bytes(), nil
}

// xerialMagic starts the framing of snappy-java: 8 bytes of magic, two version
// numbers, then blocks, each with its length.
var xerialMagic = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

func unsnappy(src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialMagic) {
		return unsnappyBlock(nil, src, limit)
	}
	if len(src) < xerialHeader {
		return nil, errors.New("snappy: header is cut off")
	}
	var out []byte
	for src = src[xerialHeader:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, errors.New("snappy: block length is cut off")
		}
		n := binary.BigEndian.Uint32(src)
		if uint64(n) > uint64(len(src)-4) {
			return nil, errors.New("snappy: block is cut off")
		}
		var err error
		if out, err = unsnappyBlock(out, src[4:4+n], limit); err != nil {
			return nil, err
		}
		src = src[4+n:]
	}
	return out, nil
}

func unsnappyBlock(out, block []byte, limit int) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	if n > limit-len(out) {
		return nil, ErrTooLarge
	}
	plain, err := snappy.Decode(nil, block)
	if err != nil {
		return nil, fmt.Errorf("snappy: %w", err)
	}
	if out == nil {
		return plain, nil
	}
	return append(out, plain...), nil
}

var zstdEncoders = sync.Pool{New: func() any {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic("record: zstd encoder options: " + err.Error())
	}
	return e
}}

// Compress returns src compressed. With no compression it returns src itself.
func Compress(codec Codec, src []byte) ([]byte, error) {
	var out bytes.Buffer
	switch codec {
	case None:
		return src, nil
	case Gzip:
		w := gzip.NewWriter(&out)
		if err := writeAll(w, src); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
	case Snappy:
		return snappy.Encode(nil, src), nil
	case LZ4:
		w := lz4.NewWriter(&out)
		// As Kafka's clients do. The default of 4 MiB costs that much memory now and
		// with everyone who decompresses it later, however small the batch.
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
		if err := writeAll(w, src); err != nil {
			return nil, fmt.Errorf("lz4: %w", err)
		}
	case Zstd:
		e := zstdEncoders.Get().(*zstd.Encoder)
		defer zstdEncoders.Put(e)
		return e.EncodeAll(src, nil), nil
	default:
		return nil, fmt.Errorf("unknown compression %s", codec)
	}
	return out.Bytes(), nil
}

func writeAll(w io.WriteCloser, src []byte) error {
	if _, err := w.Write(src); err != nil {
		return err
	}
	return w.Close()
}
