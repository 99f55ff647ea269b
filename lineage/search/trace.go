package search

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/waybillhq/waybill/internal/record"
)

// TraceHeader is the header of a record that carries its trace context (W3C Trace
// Context, as OpenTelemetry's propagators write it).
const TraceHeader = "traceparent"

// TraceContext is what a traceparent says.
type TraceContext struct {
	TraceID [16]byte
	SpanID  [8]byte
	Flags   byte
}

// ParseTraceparent reads the value of a traceparent header (W3C Trace Context, 3.2):
// version, trace id, parent id and flags in lower-case hex. Of versions that are not
// known yet it reads what version 00 has, as the recommendation asks.
func ParseTraceparent(v []byte) (c TraceContext, ok bool) {
	const length = 2 + 1 + 32 + 1 + 16 + 1 + 2
	if len(v) < length || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return c, false
	}
	var version, flags [1]byte
	for _, f := range []struct{ into, from []byte }{{version[:], v[:2]}, {c.TraceID[:], v[3:35]}, {c.SpanID[:], v[36:52]}, {flags[:], v[53:55]}} {
		if !lowerHex(f.from) {
			return TraceContext{}, false
		}
		_, _ = hex.Decode(f.into, f.from) // they are digits
	}
	c.Flags = flags[0]
	switch {
	case version[0] == 0xff,
		version[0] == 0 && len(v) != length,
		len(v) > length && v[length] != '-',
		c.TraceID == [16]byte{}, c.SpanID == [8]byte{}:
		return TraceContext{}, false
	}
	return c, true
}

func lowerHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// ParseTraceID reads a trace id as people have it: 32 hex digits, or the whole
// traceparent.
func ParseTraceID(s string) (id [16]byte, err error) {
	s = strings.ToLower(s)
	if c, ok := ParseTraceparent([]byte(s)); ok {
		return c.TraceID, nil
	}
	if len(s) == 2*len(id) && lowerHex([]byte(s)) {
		if _, err := hex.Decode(id[:], []byte(s)); err == nil && id != [16]byte{} {
			return id, nil
		}
	}
	return id, fmt.Errorf("%w: trace id %q: write its 32 hex digits, or the traceparent", ErrInvalid, shown(s))
}

// TraceOf is the trace context of a record, from the first header of that name that
// can be read.
func TraceOf(r *record.Record) (TraceContext, bool) {
	for _, h := range r.Headers {
		if strings.EqualFold(h.Key, TraceHeader) {
			if c, ok := ParseTraceparent(h.Value); ok {
				return c, true
			}
		}
	}
	return TraceContext{}, false
}

// shown is as much of what somebody wrote as an error repeats.
func shown(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
