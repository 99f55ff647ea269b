package broker

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// The codec trusts the counts in a request. An array may claim as many elements
// as there are bytes left, each of which takes up to 80 bytes of memory; a struct
// may claim four billion tagged fields, which the codec then looks for in nothing,
// for seconds. So every request is walked before it is decoded, by the shape that
// its version has on the wire, and refused when its bytes do not bear it out.
//
// The shapes are not written down: they are found by encoding requests and
// looking at what a field changes, so they follow the codec.

// shape is the wire form of a struct in one version of a request.
type shape struct {
	steps []step
	// flexible says that compact lengths are used and that tagged fields follow
	// (KIP-482); bare that this is an array's plain element and none do.
	flexible, bare bool
	// tags are the shapes of those tagged fields that hold structs.
	tags map[uint64]*shape
	// least is how many bytes it takes at least, and memory what the codec makes of
	// it, without what it refers to.
	least, memory int
}

// step is one field: a fixed number of bytes, a length and as many bytes, or an
// array.
type step struct {
	kind stepKind
	size int    // of fixed, or of the length where it is not compact
	elem *shape // of array, or inline
}

// stringLength is the size of a string's length, where that is not compact; bytes
// have a longer one, and stay in the frame.
const stringLength = 2

// stringMemory is what a string takes beside its bytes: its header, where it may be
// null, and what the allocator rounds up.
const stringMemory = 24

type stepKind uint8

const (
	fixed stepKind = iota
	sized
	array
	inline
	nullable // a byte, and a struct if it is not -1
)

// Bounds on what one request may claim, beyond that it must have the bytes. An
// element of an array takes at least one byte and at most some hundred in memory.
const (
	maxElements = 1 << 17
	maxTags     = 256
)

// structTags are the tagged fields of requests that hold structs: Fetch's replica
// state, an id and an epoch.
var structTags = map[kmsg.Key]map[uint64]*shape{
	kmsg.Fetch: {1: {flexible: true, steps: []step{{kind: fixed, size: 4 + 8}}}},
}

// accepts walks a request's body. Bytes that follow it are not looked at, as by
// the codec.
func (s *shape) accepts(body []byte) bool {
	_, ok := s.measure(body)
	return ok
}

// measure is accepts, and says how much memory the codec will take for what it does
// not leave in the frame: elements of arrays, and strings.
func (s *shape) measure(body []byte) (memory int, ok bool) {
	w := walker{buf: body, flexible: s.flexible}
	w.walk(s)
	return w.memory, !w.bad
}

// walker walks a shape and counts what it claims. After the first fault bad is
// set and nothing is left.
type walker struct {
	buf              []byte
	flexible, bad    bool
	elements, tagged int
	memory           int
}

func (w *walker) fail() { w.bad, w.buf = true, nil }

func (w *walker) skip(n int) []byte {
	if w.bad || n < 0 || n > len(w.buf) {
		w.fail()
		return nil
	}
	out := w.buf[:n]
	w.buf = w.buf[n:]
	return out
}

func (w *walker) uvarint() int {
	v, n := binary.Uvarint(w.buf)
	if n <= 0 || n > binary.MaxVarintLen32 || v > math.MaxInt32 {
		w.fail()
		return 0
	}
	w.buf = w.buf[n:]
	return int(v)
}

// length reads a compact length, or one of size bytes; null is -1.
func (w *walker) length(size int) int {
	if w.flexible {
		return w.uvarint() - 1
	}
	b := w.skip(size)
	switch {
	case b == nil:
		return 0
	case size == 2:
		return int(int16(binary.BigEndian.Uint16(b)))
	}
	return int(int32(binary.BigEndian.Uint32(b)))
}

func (w *walker) walk(s *shape) {
	for i := range s.steps {
		w.step(&s.steps[i])
		if w.bad {
			return
		}
	}
	if s.flexible && !s.bare {
		w.tags(s.tags)
	}
}

func (w *walker) step(f *step) {
	switch f.kind {
	case fixed:
		w.skip(f.size)
	case sized:
		n := max(0, w.length(f.size))
		if w.skip(n); f.size == stringLength {
			w.memory += n + stringMemory
		}
	case inline:
		w.walk(f.elem)
	case nullable:
		if b := w.skip(1); b != nil && int8(b[0]) != -1 {
			w.walk(f.elem)
		}
	case array:
		n := max(0, w.length(4))
		if w.elements += n; n > len(w.buf)/max(1, f.elem.least) || w.elements > maxElements {
			w.fail()
			return
		}
		w.memory += n * f.elem.memory
		for ; n > 0 && !w.bad; n-- {
			w.walk(f.elem)
		}
	}
}

func (w *walker) tags(known map[uint64]*shape) {
	n := w.uvarint()
	if w.tagged += n; w.tagged > maxTags {
		w.fail()
	}
	for ; n > 0 && !w.bad; n-- {
		tag := w.uvarint()
		content := w.skip(w.uvarint())
		if s := known[uint64(tag)]; s != nil && !w.bad {
			w.bad = !s.accepts(content)
		}
	}
}

// shapeOf finds the shape of a request. It fails for what it has not been taught,
// which no request of the table is.
func shapeOf(empty func() kmsg.Request, version int16) (*shape, error) {
	req := empty()
	req.SetVersion(version)
	key := kmsg.Key(req.Key())
	p := &prober{empty: empty, version: version, flexible: req.IsFlexible()}
	s, err := p.structure(reflect.TypeOf(req).Elem(), func(root reflect.Value) reflect.Value { return root })
	if err != nil {
		return nil, fmt.Errorf("shape of %s v%d: %w", apiName(key), version, err)
	}
	if s.flexible {
		s.tags = structTags[key]
	}
	return s, nil
}

// prober finds out how a request is encoded by encoding it.
type prober struct {
	empty    func() kmsg.Request
	version  int16
	flexible bool
}

// place finds a struct in a request, and makes the arrays on the way to it have
// one element.
type place func(root reflect.Value) reflect.Value

// encode is a default request after change.
func (p *prober) encode(at place, change func(s reflect.Value)) []byte {
	req := p.empty()
	req.SetVersion(p.version)
	change(at(reflect.ValueOf(req).Elem()))
	return req.AppendTo(nil)
}

func (p *prober) structure(t reflect.Type, at place) (*shape, error) {
	s := &shape{flexible: p.flexible}
	for i := range t.NumField() {
		if name := t.Field(i).Name; name == "Version" || name == "UnknownTags" {
			continue
		}
		f, there, err := p.field(t.Field(i), i, at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Field(i).Name, err)
		}
		if there {
			s.steps = append(s.steps, f)
			s.least += f.least(p.flexible)
		}
	}
	if p.flexible {
		s.least++ // no tags
	}
	return s, nil
}

func (f *step) least(flexible bool) int {
	switch {
	case f.kind == fixed:
		return f.size
	case f.kind == inline:
		return f.elem.least
	case f.kind == nullable:
		return 1
	case flexible:
		return 1
	case f.kind == array:
		return 4
	}
	return f.size
}

// field finds the step of one field. It is not there if this version does not have
// it, or has it as a tagged field.
func (p *prober) field(field reflect.StructField, i int, at place) (f step, there bool, err error) {
	base := p.encode(at, func(reflect.Value) {})
	grown := func(change func(v reflect.Value)) int {
		return len(p.encode(at, func(s reflect.Value) { change(s.Field(i)) })) - len(base)
	}
	switch t := field.Type; {
	case fixedSize(t) > 0:
		other := p.encode(at, func(s reflect.Value) { alter(s.Field(i)) })
		return step{kind: fixed, size: fixedSize(t)}, len(other) == len(base) && string(other) != string(base), nil
	case t.Kind() == reflect.String, t == reflect.TypeFor[*string]():
		return step{kind: sized, size: stringLength}, grown(alter) == 1, nil
	case t == reflect.TypeFor[[]byte]():
		return step{kind: sized, size: 4}, grown(alter) == 1, nil
	case t.Kind() == reflect.Slice:
		one := grown(func(v reflect.Value) { setElements(v, 1) })
		two := grown(func(v reflect.Value) { setElements(v, 2) })
		// A tagged array brings its tag and size along with the first element.
		if one == 0 || one != two-one {
			return step{}, false, nil
		}
		elem, err := p.element(t.Elem(), i, at)
		if err == nil {
			elem.memory = int(t.Elem().Size())
		}
		return step{kind: array, elem: elem}, true, err
	case t.Kind() == reflect.Struct:
		s, err := p.structure(t, func(root reflect.Value) reflect.Value { return at(root).Field(i) })
		return step{kind: inline, elem: s}, s != nil && len(s.steps) > 0, err
	case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct:
		there := grown(func(v reflect.Value) { v.Set(reflect.New(t.Elem())) }) > 0
		s, err := p.structure(t.Elem(), func(root reflect.Value) reflect.Value {
			v := at(root).Field(i)
			v.Set(reflect.New(t.Elem()))
			return v.Elem()
		})
		return step{kind: nullable, elem: s}, there, err
	default:
		return step{}, false, fmt.Errorf("a field of type %s", t)
	}
}

func (p *prober) element(t reflect.Type, i int, at place) (*shape, error) {
	if t.Kind() == reflect.Struct {
		return p.structure(t, func(root reflect.Value) reflect.Value {
			v := at(root).Field(i)
			setElements(v, 1)
			return v.Index(0)
		})
	}
	f := step{kind: fixed, size: fixedSize(t)}
	if t.Kind() == reflect.String {
		f = step{kind: sized, size: stringLength}
	} else if f.size == 0 {
		return nil, fmt.Errorf("an array of %s", t)
	}
	return &shape{flexible: p.flexible, bare: true, steps: []step{f}, least: f.least(p.flexible)}, nil
}

// setElements makes v a slice of n default elements.
func setElements(v reflect.Value, n int) {
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	for i := range n {
		if d, ok := v.Index(i).Addr().Interface().(interface{ Default() }); ok {
			d.Default()
		}
	}
}

// alter gives a field another value, longer by a byte if it has a length.
func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(v.Uint() + 1)
	case reflect.Float64:
		v.SetFloat(v.Float() + 1)
	case reflect.Array:
		v.Index(0).SetUint(v.Index(0).Uint() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Pointer:
		text := "x"
		if !v.IsNil() {
			text += v.Elem().String()
		}
		v.Set(reflect.ValueOf(&text))
	case reflect.Slice:
		v.SetBytes(append(v.Bytes(), 'x'))
	}
}

// fixedSize is how many bytes a type always takes, 0 if it has a length.
func fixedSize(t reflect.Type) int {
	switch t.Kind() {
	case reflect.Bool, reflect.Int8:
		return 1
	case reflect.Int16, reflect.Uint16:
		return 2
	case reflect.Int32, reflect.Uint32:
		return 4
	case reflect.Int64, reflect.Float64:
		return 8
	case reflect.Array:
		return t.Len()
	}
	return 0
}
