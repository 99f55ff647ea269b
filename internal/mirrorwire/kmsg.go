package mirrorwire

import "github.com/twmb/franz-go/pkg/kmsg"

// What makes the messages requests and responses of kmsg.

var (
	_ kmsg.Request          = (*AppendRequest)(nil)
	_ kmsg.Request          = (*DescribeRequest)(nil)
	_ kmsg.Request          = (*AlterRequest)(nil)
	_ kmsg.Response         = (*AppendResponse)(nil)
	_ kmsg.Response         = (*DescribeResponse)(nil)
	_ kmsg.Response         = (*AlterResponse)(nil)
	_ kmsg.ThrottleResponse = (*AppendResponse)(nil)
	_ kmsg.ThrottleResponse = (*DescribeResponse)(nil)
	_ kmsg.ThrottleResponse = (*AlterResponse)(nil)
)

// versioned is what all messages have in common.
type versioned struct{ Version int16 }

// MaxVersion is [MaxVersion].
func (*versioned) MaxVersion() int16 { return MaxVersion }

// SetVersion sets the version.
func (m *versioned) SetVersion(v int16) { m.Version = v }

// GetVersion is the version.
func (m *versioned) GetVersion() int16 { return m.Version }

// IsFlexible is true for all versions.
func (*versioned) IsFlexible() bool { return true }

// Key is [AppendKey].
func (*AppendRequest) Key() int16 { return AppendKey }

// AppendTo appends the encoding.
func (r *AppendRequest) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// Splice is AppendTo, but for the contents of batches: field is called with those of
// each that is not empty, and with what was appended until then.
func (r *AppendRequest) Splice(dst []byte, field func(until, contents []byte)) []byte {
	return spliceTo(dst, r, field)
}

// ReadFrom decodes; byte fields share src's memory.
func (r *AppendRequest) ReadFrom(src []byte) error { return readFrom(src, r) }

// ResponseKind is an empty answer of the same version.
func (r *AppendRequest) ResponseKind() kmsg.Response { return &AppendResponse{versioned: r.versioned} }

// Key is [AppendKey].
func (*AppendResponse) Key() int16 { return AppendKey }

// AppendTo appends the encoding.
func (r *AppendResponse) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// ReadFrom decodes; byte fields share src's memory.
func (r *AppendResponse) ReadFrom(src []byte) error { return readFrom(src, r) }

// RequestKind is an empty request of the same version.
func (r *AppendResponse) RequestKind() kmsg.Request { return &AppendRequest{versioned: r.versioned} }

// Throttle is how long the client is to wait, after it has the answer.
func (r *AppendResponse) Throttle() (millis int32, afterResponse bool) { return r.ThrottleMillis, true }

// SetThrottle sets it.
func (r *AppendResponse) SetThrottle(millis int32) { r.ThrottleMillis = millis }

// Key is [DescribeKey].
func (*DescribeRequest) Key() int16 { return DescribeKey }

// AppendTo appends the encoding.
func (r *DescribeRequest) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// ReadFrom decodes; byte fields share src's memory.
func (r *DescribeRequest) ReadFrom(src []byte) error { return readFrom(src, r) }

// ResponseKind is an empty answer of the same version.
func (r *DescribeRequest) ResponseKind() kmsg.Response {
	return &DescribeResponse{versioned: r.versioned}
}

// Key is [DescribeKey].
func (*DescribeResponse) Key() int16 { return DescribeKey }

// AppendTo appends the encoding.
func (r *DescribeResponse) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// ReadFrom decodes; byte fields share src's memory.
func (r *DescribeResponse) ReadFrom(src []byte) error { return readFrom(src, r) }

// RequestKind is an empty request of the same version.
func (r *DescribeResponse) RequestKind() kmsg.Request {
	return &DescribeRequest{versioned: r.versioned}
}

// Throttle is how long the client is to wait, after it has the answer.
func (r *DescribeResponse) Throttle() (millis int32, afterResponse bool) {
	return r.ThrottleMillis, true
}

// SetThrottle sets it.
func (r *DescribeResponse) SetThrottle(millis int32) { r.ThrottleMillis = millis }

// Key is [AlterKey].
func (*AlterRequest) Key() int16 { return AlterKey }

// AppendTo appends the encoding.
func (r *AlterRequest) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// ReadFrom decodes; byte fields share src's memory.
func (r *AlterRequest) ReadFrom(src []byte) error { return readFrom(src, r) }

// ResponseKind is an empty answer of the same version.
func (r *AlterRequest) ResponseKind() kmsg.Response { return &AlterResponse{versioned: r.versioned} }

// Key is [AlterKey].
func (*AlterResponse) Key() int16 { return AlterKey }

// AppendTo appends the encoding.
func (r *AlterResponse) AppendTo(dst []byte) []byte { return appendTo(dst, r) }

// ReadFrom decodes; byte fields share src's memory.
func (r *AlterResponse) ReadFrom(src []byte) error { return readFrom(src, r) }

// RequestKind is an empty request of the same version.
func (r *AlterResponse) RequestKind() kmsg.Request { return &AlterRequest{versioned: r.versioned} }

// Throttle is how long the client is to wait, after it has the answer.
func (r *AlterResponse) Throttle() (millis int32, afterResponse bool) { return r.ThrottleMillis, true }

// SetThrottle sets it.
func (r *AlterResponse) SetThrottle(millis int32) { r.ThrottleMillis = millis }
