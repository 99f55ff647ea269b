package flow

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder reads one document's nodes into Go values and collects every fault. It
// does not use the YAML library's own decoding, because that turns 0123 into 83
// on some roads, takes yes for true, and stops where it should go on.
type decoder struct {
	file     string
	object   string // key, as far as it is known
	at       map[string]position
	problems Problems
}

func (d *decoder) fault(n *yaml.Node, path, message, fix string) {
	d.problems = append(d.problems, Problem{
		File: d.file, Line: n.Line, Column: n.Column, Object: d.object, Path: path, Message: message, Fix: fix,
	})
}

var (
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
	secretType   = reflect.TypeFor[Secret]()
	startType    = reflect.TypeFor[Start]()
	replicasType = reflect.TypeFor[ReplicationFactor]()
)

// value decodes n into v, which is settable.
func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	d.at[path] = position{n.Line, n.Column}
	if !d.plain(n, path) {
		return
	}
	if n.ShortTag() == "!!null" {
		fix := "write a value, or remove the key"
		if v.Kind() == reflect.Pointer {
			fix = "write {} if all its defaults are meant, or remove the key"
		}
		d.fault(n, path, "has no value", fix)
		return
	}
	switch {
	case v.Type() == durationType:
		d.text(n, path, func(s string) error {
			parsed, err := ParseDuration(s)
			v.SetInt(int64(parsed))
			return err
		})
	case v.Type() == sizeType:
		d.text(n, path, func(s string) error {
			parsed, err := ParseSize(s)
			v.SetInt(int64(parsed))
			return err
		})
	case v.Type() == secretType:
		d.text(n, path, func(s string) error {
			parsed, err := ParseSecret(s)
			v.SetString(string(parsed))
			return err
		})
	case v.Type() == startType:
		d.start(n, path, v)
	case v.Type() == replicasType:
		d.word(n, path, func(s string) error {
			parsed, err := parseReplicationFactor(s)
			v.SetInt(int64(parsed))
			return err
		})
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, path, v.Elem())
	case v.Kind() == reflect.Struct:
		d.mapping(n, path, fieldsOf(v))
	case v.Kind() == reflect.Map:
		d.stringMap(n, path, v)
	case v.Kind() == reflect.Slice:
		d.list(n, path, v)
	case v.Kind() == reflect.String:
		d.text(n, path, func(s string) error { v.SetString(s); return nil })
	case v.Kind() == reflect.Bool:
		d.boolean(n, path, v)
	default:
		d.integer(n, path, v)
	}
}

// plain refuses what YAML can do and a declaration has no use for: what is
// written is then what is meant.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n, path, "anchors and aliases are not understood", "write the value out; quote a text that begins with & or *")
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n, path, "YAML tags are not understood", "write the value without it; quote a text that begins with !")
	default:
		return true
	}
	return false
}

// text decodes every scalar as it is written: 0123, 1_000 and yes are texts
// where a text is wanted.
func (d *decoder) text(n *yaml.Node, path string, set func(string) error) {
	// JSON, whose nodes have no line, says itself what is a text.
	if n.Kind != yaml.ScalarNode || n.Line == 0 && n.Style&quoted == 0 {
		d.fault(n, path, "is "+describe(n)+" where a text is wanted", "")
		return
	}
	if err := set(n.Value); err != nil {
		m := asMistake(err)
		d.fault(n, path, m.message, m.fix)
	}
}

// word decodes a scalar that may be a number or a text, in JSON too.
func (d *decoder) word(n *yaml.Node, path string, set func(string) error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!bool" {
		d.fault(n, path, "is "+describe(n)+" where a number or a word is wanted", "")
		return
	}
	if err := set(n.Value); err != nil {
		m := asMistake(err)
		d.fault(n, path, m.message, m.fix)
	}
}

// start decodes a word, or a mapping with one key.
func (d *decoder) start(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.text(n, path, func(s string) error {
			if s == "" || strings.Contains(s, ":") {
				return mistake{fmt.Sprintf("%q is not known here", s), startFix}
			}
			v.SetString(s)
			return nil
		})
		return
	}
	var keys startKeys
	before := len(d.problems)
	d.mapping(n, path, fieldsOf(reflect.ValueOf(&keys).Elem()))
	if len(d.problems) > before {
		return
	}
	start, err := keys.start()
	if err != nil {
		m := asMistake(err)
		d.fault(n, path, m.message, m.fix)
		return
	}
	v.SetString(string(start))
}

const startFix = "write one of earliest, latest, {timestamp: 2026-01-02T03:04:05Z}, {committed: GROUP}"

func (d *decoder) boolean(n *yaml.Node, path string, v reflect.Value) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Style&quoted == 0 && n.Value == "true":
		v.SetBool(true)
	case n.Kind == yaml.ScalarNode && n.Style&quoted == 0 && n.Value == "false":
		v.SetBool(false)
	default:
		d.fault(n, path, "is "+describe(n)+" where true or false is wanted", "write true or false, without quotes")
	}
}

const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// decimal leaves out what people and parsers read differently: 010, 1_000, 0x1F,
// 1e3.
var decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

func (d *decoder) integer(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Style&quoted != 0 || !decimal.MatchString(n.Value) {
		d.fault(n, path, "is "+describe(n)+" where a plain whole number is wanted", "write decimal digits, without quotes and without leading zeros")
		return
	}
	i, err := strconv.ParseInt(n.Value, 10, v.Type().Bits())
	if err != nil {
		most := int64(math.MaxInt64) >> (64 - v.Type().Bits())
		d.fault(n, path, fmt.Sprintf("%s is out of range", n.Value), fmt.Sprintf("the largest number here is %d", most))
		return
	}
	v.SetInt(i)
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n, path, "is "+describe(n)+" where a list is wanted", "write [a, b], or one item a line after a dash")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
	}
}

func (d *decoder) stringMap(n *yaml.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, path, func(key, value *yaml.Node) {
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(value, join(path, key.Value), item)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

// mapping decodes a struct: unknown and missing keys are faults.
func (d *decoder) mapping(n *yaml.Node, path string, fields []field) {
	seen := map[string]bool{}
	ok := d.pairs(n, path, func(key, value *yaml.Node) {
		seen[key.Value] = true
		for _, f := range fields {
			if f.key == key.Value {
				d.value(value, join(path, f.key), f.value)
				return
			}
		}
		d.fault(key, join(path, key.Value), "unknown key", suggest(key.Value, path, fields))
	})
	if !ok {
		return
	}
	for _, f := range fields {
		if f.required && !seen[f.key] {
			d.fault(n, join(path, f.key), "is missing", "")
		}
	}
}

// pairs calls each for every key of a mapping; false if n is none.
func (d *decoder) pairs(n *yaml.Node, path string, each func(key, value *yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "is "+describe(n)+" where keys and values are wanted", "")
		return false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0 || key.Anchor != "":
			d.fault(key, path, "a key is a plain text", "")
		case lines[key.Value] > 0:
			d.fault(key, join(path, key.Value), "is written twice", fmt.Sprintf("the other is in line %d; remove one", lines[key.Value]))
		default:
			lines[key.Value] = max(key.Line, 1)
			each(key, value)
		}
	}
	return true
}

// field is one key of a struct.
type field struct {
	key      string
	required bool // its tag has no omitempty or omitzero
	value    reflect.Value
}

// fieldsOf lists the keys of struct v, with those of embedded structs, in order.
func fieldsOf(v reflect.Value) []field {
	var out []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			out = append(out, fieldsOf(v.Field(i))...)
			continue
		}
		key, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && key != "" {
			out = append(out, field{key: key, required: options == "", value: v.Field(i)})
		}
	}
	return out
}

// describe names the type of a value without showing it: it may be a secret that
// stands in the wrong place.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch {
		case n.Style&quoted != 0:
			return "a quoted text"
		case n.ShortTag() == "!!int" || n.ShortTag() == "!!float":
			return "a number"
		case n.ShortTag() == "!!bool":
			return "a boolean"
		}
		return "a text"
	}
	return "something else"
}
