package broker

import (
	"math/rand/v2"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fill gives every field of a request something.
func fill(v reflect.Value, rng *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name == "Version" || name == "UnknownTags" {
				continue
			}
			fill(v.Field(i), rng, depth)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(make([]byte, rng.IntN(200)))
			return
		}
		setElements(v, rng.IntN(4))
		for i := range v.Len() {
			fill(v.Index(i), rng, depth+1)
		}
	case reflect.String:
		v.SetString(string(make([]byte, rng.IntN(150))))
	case reflect.Pointer:
		if text := string(make([]byte, rng.IntN(20))); rng.IntN(3) > 0 && v.Type() == reflect.TypeFor[*string]() {
			v.Set(reflect.ValueOf(&text))
		}
	case reflect.Array:
		v.Index(rng.IntN(v.Len())).SetUint(rng.Uint64() & 0xff)
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rng.Int64() >> (64 - v.Type().Bits()))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(rng.Uint64() >> (64 - v.Type().Bits()))
	case reflect.Float64:
		v.SetFloat(rng.Float64())
	}
}

func TestShapesFitWhatTheCodecWrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range table {
		for v := row.min; v <= row.max; v++ {
			form := row.form(v)
			for range 40 {
				req := newRequest(row.key)
				req.SetVersion(v)
				fill(reflect.ValueOf(req).Elem(), rng, 0)
				body := req.AppendTo(nil)
				w := walker{buf: body, flexible: form.flexible}
				if w.walk(form); w.bad || len(w.buf) != 0 {
					t.Fatalf("%s v%d: fault %v, %d of %d bytes left: %+v", apiName(row.key), v, w.bad, len(w.buf), len(body), req)
				}
				// What is cut off is refused, by us or by the codec.
				if n := rng.IntN(len(body) + 1); n < len(body) && form.accepts(body[:n]) {
					t.Fatalf("%s v%d: accepts %d of %d bytes", apiName(row.key), v, n, len(body))
				}
			}
		}
	}
}

func TestClaimsWithoutBytesAreRefusedAtOnce(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	many := []byte{0xff, 0xff, 0xff, 0xff, 0x0f} // 2^32-1
	for name, c := range map[string]struct {
		key     kmsg.Key
		version int16
		body    []byte
	}{
		"four billion tags":         {kmsg.DescribeLogDirs, 4, append([]byte{0}, many...)},
		"tags before a login":       {kmsg.ApiVersions, 3, append([]byte{1, 1}, many...)},
		"tags in replica state":     {kmsg.Fetch, 17, fetchWithReplicaTags(many)},
		"a megabyte of topics":      {kmsg.Metadata, 1, append([]byte{0, 0x10, 0, 0}, make([]byte, 1<<20)...)},
		"a megabyte of tags":        {kmsg.ApiVersions, 3, append([]byte{1, 1, 0x80, 0x80, 0x10}, make([]byte, 1<<20)...)},
		"partitions of one topic":   {kmsg.Produce, 3, append([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0, 0, 0, 1, 0, 1, 't', 0, 0x10, 0, 0}, make([]byte, 1<<20)...)},
		"partitions, compact":       {kmsg.Produce, 9, append([]byte{0, 0xff, 0xff, 0, 0, 0, 9, 2, 2, 't', 0xff, 0xff, 0x3f}, make([]byte, 1<<20)...)},
		"a topic's name is missing": {kmsg.CreateTopics, 5, []byte{2, 100}},
	} {
		began := processor(t) // of a busy machine the clock says nothing
		if table[int16(c.key)].form(c.version).accepts(c.body) {
			t.Errorf("%s: accepted", name)
		}
		if took := processor(t) - began; took > time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// processor is how much processor time this process has taken.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func fetchWithReplicaTags(tags []byte) []byte {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(17)
	body := req.AppendTo(nil)
	content := append(make([]byte, 12), tags...)
	body = append(body[:len(body)-1], 1, 1, byte(len(content)))
	return append(body, content...)
}
