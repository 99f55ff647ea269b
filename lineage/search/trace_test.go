package search

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
)

const sample = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestParseTraceparent(t *testing.T) {
	for _, c := range []struct {
		name, value string
		ok          bool
	}{
		{"as the recommendation has it", sample, true},
		{"not sampled", strings.TrimSuffix(sample, "01") + "00", true},
		{"of a later version", "cc" + sample[2:], true},
		{"of a later version with more", "cc" + sample[2:] + "-what-comes", true},
		{"of a later version with more of the flags", "cc" + sample[2:] + ".what", false},
		{"version 00 with more", sample + "-what-comes", false},
		{"version ff", "ff" + sample[2:], false},
		{"upper case", strings.ToUpper(sample), false},
		{"no trace", "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", false},
		{"no parent", "00-4bf92f3577b34da6a3ce929d0e0e4736-" + strings.Repeat("0", 16) + "-01", false},
		{"cut off", sample[:54], false},
		{"empty", "", false},
		{"another separator", strings.ReplaceAll(sample, "-", "_"), false},
		{"no digits", "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01", false},
	} {
		got, ok := ParseTraceparent([]byte(c.value))
		if ok != c.ok {
			t.Errorf("%s: got %v", c.name, ok)
		}
		if ok && (hex.EncodeToString(got.TraceID[:]) != sample[3:35] || hex.EncodeToString(got.SpanID[:]) != sample[36:52]) {
			t.Errorf("%s: got %+v", c.name, got)
		}
		if !ok && got != (TraceContext{}) {
			t.Errorf("%s: got %+v of what cannot be read", c.name, got)
		}
	}
}

func TestParseTraceID(t *testing.T) {
	for _, s := range []string{sample, sample[3:35], strings.ToUpper(sample[3:35]), strings.ToUpper(sample)} {
		if id, err := ParseTraceID(s); err != nil || hex.EncodeToString(id[:]) != sample[3:35] {
			t.Errorf("%s: got %x, %v", s, id, err)
		}
	}
	for _, s := range []string{"", sample[3:34], strings.Repeat("0", 32), strings.Repeat("x", 32), strings.Repeat("long ", 1000)} {
		if _, err := ParseTraceID(s); !errors.Is(err, ErrInvalid) || len(err.Error()) > 250 {
			t.Errorf("%.40s: got %v", s, err)
		}
	}
}

func TestTraceOf(t *testing.T) {
	header := func(k, v string) record.Header { return record.Header{Key: k, Value: []byte(v)} }
	for _, c := range []struct {
		name    string
		headers []record.Header
		ok      bool
	}{
		{"none", nil, false},
		{"one", []record.Header{header("a", "b"), header("traceparent", sample)}, true},
		{"in another case", []record.Header{header("Traceparent", sample)}, true},
		{"behind one that is broken", []record.Header{header("traceparent", "?"), header("traceparent", sample)}, true},
		{"null", []record.Header{{Key: "traceparent"}}, false},
	} {
		if got, ok := TraceOf(&record.Record{Headers: c.headers}); ok != c.ok || ok && hex.EncodeToString(got.TraceID[:]) != sample[3:35] {
			t.Errorf("%s: got %v %v", c.name, got, ok)
		}
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("cc" + sample[2:] + "-x"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, v []byte) {
		c, ok := ParseTraceparent(v)
		if !ok {
			return
		}
		if c.TraceID == [16]byte{} || c.SpanID == [8]byte{} || hex.EncodeToString(c.TraceID[:]) != string(v[3:35]) {
			t.Errorf("%q: got %+v", v, c)
		}
		if id, err := ParseTraceID(string(v)); err != nil || id != c.TraceID {
			t.Errorf("%q: got %x %v as a trace id", v, id, err)
		}
	})
}
