package broker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// frameOf is a request as a client sends it, length included.
func frameOf(req kmsg.Request, version int16) []byte {
	req.SetVersion(version)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, 7)
}

func readerOf(b []byte, limit func(int16) int) frameReader {
	return frameReader{r: bufio.NewReader(bytes.NewReader(b)), limit: limit}
}

func TestEveryRequestOfTheTableSurvivesTheWire(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		for v := row.min; v <= row.max; v++ {
			raw, err := readerOf(frameOf(newRequest(row.key), v), func(int16) int { return maxFrame }).next()
			if err != nil {
				t.Fatalf("%s v%d: %v", apiName(row.key), v, err)
			}
			if h := frameHeader(raw); h.key != int16(row.key) || h.version != v || h.correlation != 7 {
				t.Fatalf("%s v%d: header %+v", apiName(row.key), v, h)
			}
			body := newRequest(row.key)
			body.SetVersion(v)
			if id, err := decodeRequest(raw, body, row.form(v)); err != nil || id != "test" {
				t.Fatalf("%s v%d: client id %q, %v", apiName(row.key), v, id, err)
			}
			resp := body.ResponseKind()
			out := appendResponse(nil, 7, resp)
			at := 8
			if resp.IsFlexible() && row.key != kmsg.ApiVersions {
				at++
			}
			if n := binary.BigEndian.Uint32(out); int(n) != len(out)-4 {
				t.Fatalf("%s v%d: response length %d of %d", apiName(row.key), v, n, len(out)-4)
			}
			if err := body.ResponseKind().ReadFrom(out[at:]); err != nil {
				t.Fatalf("%s v%d: response: %v", apiName(row.key), v, err)
			}
		}
	}
}

func TestFramesThatAreRefused(t *testing.T) {
	limit := func(key int16) int {
		if kmsg.Key(key) == kmsg.ApiVersions {
			return 100
		}
		return 0
	}
	good := frameOf(kmsg.NewPtrApiVersionsRequest(), 0)
	huge := append([]byte{0x7f, 0xff, 0xff, 0xff}, good[4:]...)
	negative := append([]byte{0xff, 0xff, 0xff, 0xfe}, good[4:]...)
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":         {nil, io.EOF},
		"negative length": {negative, errFrame},
		"no length":       {good[:2], io.ErrUnexpectedEOF},
		"zero length":     {[]byte{0, 0, 0, 0, 0, 0, 0, 0}, errFrame},
		"too long":        {huge, errFrame},
		"key not allowed": {frameOf(kmsg.NewPtrMetadataRequest(), 1), errFrame},
		"cut off":         {good[:len(good)-1], io.ErrUnexpectedEOF},
	} {
		if _, err := readerOf(c.bytes, limit).next(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestALengthAloneAllocatesLittle(t *testing.T) {
	head := make([]byte, 12)
	binary.BigEndian.PutUint32(head, 100<<20)
	allocated := testing.AllocsPerRun(1, func() {
		_, err := readerOf(head, func(int16) int { return 200 << 20 }).next()
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations", allocated)
	}
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = readerOf(head, func(int16) int { return 200 << 20 }).next()
		}
	})
	if n := result.AllocedBytesPerOp(); n > 2*firstChunk {
		t.Errorf("a length of 100 MiB allocated %d bytes", n)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, frame := range oneOfEach(f) {
		f.Add(frame)
	}
	table, err := wholeTable()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) < minFrame || len(raw) > 64<<10 {
			return
		}
		h := frameHeader(raw)
		row := table[h.key]
		if row == nil || h.version < row.min || h.version > row.max {
			return
		}
		body := newRequest(row.key)
		body.SetVersion(h.version)
		if _, err := decodeRequest(raw, body, row.form(h.version)); err != nil && !errors.Is(err, errFrame) {
			t.Fatal(err)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add(frameOf(kmsg.NewPtrApiVersionsRequest(), 3))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		r := readerOf(raw, unauthenticatedFrameLimit)
		for {
			if _, err := r.next(); err != nil {
				return
			}
		}
	})
}
