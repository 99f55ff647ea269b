package mirrorwire

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kbin"
)

// coder reads or writes fields, whichever it was made for, so that a type lists
// its fields once. After the first fault of a read everything is zero.
type coder struct {
	out  []byte
	in   kbin.Reader
	read bool
	// splice, of who writes, is given the contents of byte fields in place of out.
	splice func(until, contents []byte)
}

// fields is a struct that can list its fields to a coder, in their order.
type fields interface{ fields(c *coder) }

// appendTo is the encoding of v behind dst.
func appendTo(dst []byte, v fields) []byte {
	c := coder{out: dst}
	v.fields(&c)
	c.tags()
	return c.out
}

// spliceTo is appendTo, but for the contents of byte fields, which splice is given.
func spliceTo(dst []byte, v fields, splice func(until, contents []byte)) []byte {
	c := coder{out: dst, splice: splice}
	v.fields(&c)
	c.tags()
	return c.out
}

// errTrailing says that bytes follow a message.
var errTrailing = errors.New("bytes after the message")

// readFrom decodes src into v. Byte fields share src's memory.
func readFrom(src []byte, v fields) error {
	c := coder{in: kbin.Reader{Src: src}, read: true}
	v.fields(&c)
	c.tags()
	if err := c.in.Complete(); err != nil {
		return err
	}
	if len(c.in.Src) > 0 {
		return errTrailing
	}
	return nil
}

func (c *coder) int8(v *int8) {
	if c.read {
		*v = c.in.Int8()
		return
	}
	c.out = kbin.AppendInt8(c.out, *v)
}

func (c *coder) int16(v *int16) {
	if c.read {
		*v = c.in.Int16()
		return
	}
	c.out = kbin.AppendInt16(c.out, *v)
}

func (c *coder) int32(v *int32) {
	if c.read {
		*v = c.in.Int32()
		return
	}
	c.out = kbin.AppendInt32(c.out, *v)
}

func (c *coder) int64(v *int64) {
	if c.read {
		*v = c.in.Int64()
		return
	}
	c.out = kbin.AppendInt64(c.out, *v)
}

func (c *coder) uuid(v *[16]byte) {
	if c.read {
		*v = c.in.Uuid()
		return
	}
	c.out = kbin.AppendUuid(c.out, *v)
}

func (c *coder) string(v *string) {
	if c.read {
		*v = c.in.CompactString()
		return
	}
	c.out = kbin.AppendCompactString(c.out, *v)
}

func (c *coder) nullable(v **string) {
	if c.read {
		*v = c.in.CompactNullableString()
		return
	}
	c.out = kbin.AppendCompactNullableString(c.out, *v)
}

func (c *coder) bytes(v *[]byte) {
	if c.read {
		*v = c.in.CompactBytes()
		return
	}
	if c.splice != nil && len(*v) > 0 {
		c.out = kbin.AppendUvarint(c.out, 1+uint32(len(*v)))
		c.splice(c.out, *v)
		return
	}
	c.out = kbin.AppendCompactBytes(c.out, *v)
}

// array codes a slice of structs. A read makes room as elements arrive: a count
// alone allocates nothing.
func array[T any, P interface {
	*T
	fields
}](c *coder, v *[]T) {
	if !c.read {
		c.out = kbin.AppendCompactArrayLen(c.out, len(*v))
		for i := range *v {
			P(&(*v)[i]).fields(c)
			c.tags()
		}
		return
	}
	*v = nil
	for n := c.in.CompactArrayLen(); n > 0 && c.in.Ok(); n-- {
		var e T
		P(&e).fields(c)
		c.tags()
		if c.in.Ok() {
			*v = append(*v, e)
		}
	}
}

// tags ends a struct. Version 0 has no tagged fields: unknown ones are skipped.
func (c *coder) tags() {
	if !c.read {
		c.out = append(c.out, 0)
		return
	}
	for n := c.in.Uvarint(); n > 0 && c.in.Ok(); n-- {
		c.in.Uvarint()
		c.in.Span(int(c.in.Uvarint()))
	}
}
