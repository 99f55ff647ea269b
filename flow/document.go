package flow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Document is one YAML document that is no object of the fleet, such as the
// configuration of a process. It is read as strictly as objects are, and knows
// where its values stand.
type Document struct {
	origin   origin
	problems Problems
	unread   int // how many of them say that a value could not be read
}

// ReadDocument decodes the only document of a stream into out, a pointer to a
// struct with json tags: unknown keys are faults, and so are absent ones whose
// tag has no omitempty or omitzero. The error is of reading alone; what is wrong
// with the document is for [Document.Err], after the caller has added what else
// he finds.
func ReadDocument(file string, r io.Reader, out any) (*Document, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(text) > MaxFile {
		return nil, fmt.Errorf("read %s: larger than %d bytes", file, MaxFile)
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	d := &Document{origin: origin{file: file, at: map[string]position{}}}
	d.load(loader, out)
	d.unread = len(d.problems)
	return d, nil
}

func (d *Document) load(loader *yaml.Loader, out any) {
	for found := false; ; {
		var doc yaml.Node
		err := loader.Load(&doc)
		switch {
		case errors.Is(err, io.EOF):
			if !found {
				d.problems = append(d.problems, Problem{File: d.origin.file, Message: "has nothing in it"})
			}
			return
		case err != nil:
			d.problems = append(d.problems, syntaxProblem(d.origin.file, err))
			return
		case doc.Kind != yaml.DocumentNode || len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null":
			continue // nothing but comments
		}
		dec := &decoder{file: d.origin.file, at: d.origin.at}
		if found {
			dec.fault(doc.Content[0], "", "is a second document", "this file holds one; remove what begins here")
		} else {
			dec.value(doc.Content[0], "", reflect.ValueOf(out).Elem())
		}
		found = true
		d.problems = append(d.problems, dec.problems...)
	}
}

// Fault adds a fault at the value of a path such as "listeners[0].address",
// unless that value has one already, or one around it could not be read.
func (d *Document) Fault(path, message, fix string) {
	for i, p := range d.problems {
		around := p.Path == "" || strings.HasPrefix(path, p.Path+".") || strings.HasPrefix(path, p.Path+"[")
		if p.Path == path || around && i < d.unread {
			return
		}
	}
	d.problems = append(d.problems, d.origin.problem(path, message, fix))
}

// Err is every fault as [Problems], in order of their places; nil if there is
// none.
func (d *Document) Err() error { return d.problems.err() }
