package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
)

// document is an object as it is written, with what YAML and JSON put first.
type document struct {
	APIVersion string   `yaml:"apiVersion" json:"apiVersion"`
	Kind       Kind     `yaml:"kind" json:"kind"`
	Metadata   Metadata `yaml:"metadata" json:"metadata"`
	Spec       any      `yaml:"spec" json:"spec"`
}

func (o Object) document() (document, error) {
	doc := document{APIVersion: APIVersion, Kind: o.Kind, Metadata: o.Metadata()}
	switch body := o.body().(type) {
	case *Cluster:
		doc.Spec = body.Spec
	case *ReplicationFlow:
		doc.Spec = body.Spec
	case *Runbook:
		doc.Spec = body.Spec
	default:
		return doc, fmt.Errorf("encode %s: kind %q without its body", o.Key(), o.Kind)
	}
	return doc, nil
}

// MarshalJSON writes the object in its canonical form: one line, keys in the
// order of the types, labels sorted, defaults written out as far as they are set.
// Equal objects have equal bytes.
func (o Object) MarshalJSON() ([]byte, error) {
	doc, err := o.document()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // regular expressions stay readable
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.Key(), err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Encode returns the object as it is stored: canonical JSON with its apiVersion.
// It refuses an object that [Decode] would not read back.
func Encode(o Object) ([]byte, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", o.Key(), err)
	}
	return o.MarshalJSON()
}

// Decode reads one object from JSON, as strictly as [Parse] reads YAML: unknown
// and repeated keys, wrong types and another apiVersion are [Problems].
func Decode(b []byte) (Object, error) {
	n, err := jsonNode(b)
	if err != nil {
		return Object{}, Problems{{Message: "is not JSON", Fix: err.Error()}}
	}
	object, problems := decodeDocument("", n)
	for i := range problems {
		problems[i].Line, problems[i].Column = 0, 0 // JSON is written by machines
	}
	if err := problems.err(); err != nil {
		return Object{}, err
	}
	object.origin = nil
	return object, nil
}

// jsonNode reads one JSON value into the nodes that YAML is read into, so that
// both take the same path. YAML's own reader would do for most JSON, but not for
// all of it: not for surrogate pairs, nor for long keys.
func jsonNode(b []byte) (*yaml.Node, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	n, err := nextNode(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("one object is wanted, and more follows it")
	}
	return n, nil
}

// maxDepth is twice the depth of the deepest object.
const maxDepth = 16

func nextNode(dec *json.Decoder, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, value string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, nil
	}
	switch t := token.(type) {
	case string:
		n, _ := scalar("!!str", t)
		n.Style = yaml.DoubleQuotedStyle
		return n, nil
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return scalar("!!float", t.String())
		}
		return scalar("!!int", t.String())
	case bool:
		return scalar("!!bool", fmt.Sprint(t))
	case json.Delim:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if t == '[' {
			n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
		}
		for dec.More() {
			child, err := nextNode(dec, depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		_, err := dec.Token() // the closing bracket
		return n, err
	default:
		return scalar("!!null", "null")
	}
}

// UnmarshalJSON is [Decode].
func (o *Object) UnmarshalJSON(b []byte) (err error) {
	*o, err = Decode(b)
	return err
}

// MarshalYAML writes the objects in their canonical form, as documents of one
// stream that [Parse] reads back.
func MarshalYAML(objects ...Object) ([]byte, error) {
	var out bytes.Buffer
	for i, o := range objects {
		doc, err := o.document()
		if err != nil {
			return nil, err
		}
		text, err := yaml.Dump(doc)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", o.Key(), err)
		}
		if i > 0 {
			out.WriteString("---\n")
		}
		out.Write(text)
	}
	return out.Bytes(), nil
}
