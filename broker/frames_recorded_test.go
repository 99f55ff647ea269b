package broker

import (
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// kind is a key and a version of it.
type kind struct {
	key     kmsg.Key
	version int16
}

func kindOf(frame []byte) kind {
	h := frameHeader(frame)
	return kind{kmsg.Key(h.key), h.version}
}

// constructed are the requests that testdata/frames.gz cannot have, with why.
var constructed = []struct {
	kind
	why string
}{
	{kind{kmsg.Key(mirrorwire.AppendKey), 0}, "no client sends our own requests yet"},
	{kind{kmsg.Key(mirrorwire.DescribeKey), 0}, "as MirrorAppend"},
	{kind{kmsg.Key(mirrorwire.AlterKey), 0}, "as MirrorAppend"},
}

// constructedFrames are three of each.
func constructedFrames() [][]byte {
	rng := rand.New(rand.NewPCG(3, 4))
	var out [][]byte
	for _, k := range constructed {
		for range 3 {
			req := newRequest(k.key)
			fill(reflect.ValueOf(req).Elem(), rng, 0)
			out = append(out, frameOf(req, k.version)[frameLengthSize:])
		}
	}
	return out
}

// recordedFrames are requests, without their lengths, that clients sent over the
// wire to a bundled broker: franz-go's, librdkafka's, kafka-python, kafkajs,
// @platformatic/kafka and Java's, recorded by test/interop/wiretap.
func recordedFrames(t testing.TB) [][]byte {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", "frames.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for in := readerOf(all, func(int16) int { return maxFrame }); ; {
		frame, err := in.next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, frame)
	}
}

// oneOfEach is the longest request of each kind, recorded or constructed.
func oneOfEach(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, frame := range slices.Concat(recordedFrames(t), constructedFrames()) { // each kind's are together
		if n := len(out); n > 0 && kindOf(out[n-1]) == kindOf(frame) {
			out = out[:n-1]
		}
		out = append(out, frame)
	}
	return out
}

// TestFramesCoverTheTable says that every version of every request is recorded, or
// has a reason not to be, and that what clients send decodes.
func TestFramesCoverTheTable(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	missing := map[kind]bool{}
	for _, row := range table {
		for v := row.min; v <= row.max; v++ {
			missing[kind{row.key, v}] = true
		}
	}
	for _, frame := range recordedFrames(t) {
		k := kindOf(frame)
		delete(missing, k)
		row := table[int16(k.key)]
		if row == nil || k.version < row.min || k.version > row.max {
			t.Errorf("%s v%d is recorded and not spoken", apiName(k.key), k.version)
			continue
		}
		body := newRequest(k.key)
		body.SetVersion(k.version)
		if _, err := decodeRequest(frame, body, row.form(k.version)); err != nil {
			t.Errorf("%s v%d as a client sent it: %v: %x", apiName(k.key), k.version, err, frame)
		}
	}
	for _, c := range constructed {
		if !missing[c.kind] {
			t.Errorf("%s v%d is recorded or not spoken: it need not be constructed (%s)", apiName(c.key), c.version, c.why)
		}
		delete(missing, c.kind)
	}
	for k := range missing {
		t.Errorf("%s v%d is not recorded: see test/interop/wiretap", apiName(k.key), k.version)
	}
}
