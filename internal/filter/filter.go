package filter

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/waybillhq/waybill/internal/record"
)

const (
	// MaxText bounds an expression in bytes; what is longer is a program.
	MaxText = 8 << 10
	// maxNodes bounds what an expression consists of, and so what it costs.
	maxNodes = 1000
)

// Filter is a compiled expression. It is safe for concurrent use.
type Filter struct {
	text     string
	root     node
	usesJSON bool
	events   sync.Pool // of *event
}

// event is a record as an expression sees it, for one evaluation at a time.
type event struct {
	topic     string
	partition int32
	record    *record.Record
	json      value
	item      value // within a function that goes through a list
	budget
}

// SyntaxError says what is wrong with an expression, and where in it.
type SyntaxError struct {
	Line, Column int // both from 1, columns in characters
	Message      string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (line %d, column %d of the expression)", e.Message, e.Line, e.Column)
}

// Compile compiles an expression, or returns a *[SyntaxError].
func Compile(text string) (*Filter, error) {
	if len(text) > MaxText {
		return nil, &SyntaxError{1, 1, fmt.Sprintf("the expression has %d bytes, %d are allowed", len(text), MaxText)}
	}
	p, root := parse(text)
	if p.fault != nil {
		return nil, p.fault.in(text)
	}
	f := &Filter{text: text, root: root, usesJSON: p.usesJSON}
	f.events.New = func() any { return new(event) }
	return f, nil
}

// Match says whether a record of a source partition is to be copied. An error
// says why the expression has no answer for it.
func (f *Filter) Match(topic string, partition int32, r *record.Record) (bool, error) {
	e := f.events.Get().(*event)
	*e = event{topic: topic, partition: partition, record: r, budget: budgetFor(r)}
	defer func() {
		*e = event{} // nothing of the record is kept
		f.events.Put(e)
	}()
	if f.usesJSON {
		e.json = value{kind: null}
		if r.Value != nil {
			var doc any
			if err := json.Unmarshal(r.Value, &doc); err != nil {
				return false, fmt.Errorf("the filter asks for JSON and the value is none: %w", err)
			}
			e.json = of(doc)
		}
	}
	answer, err := f.root.eval(e)
	if err == nil && answer.kind != boolean && answer.kind != null { // a member that is not there is not true
		err = faultAt(f.root.at, "the answer is a %v, which is neither true nor false", answer.kind)
	}
	if err != nil {
		if at, ok := errors.AsType[*fault](err); ok {
			err = at.in(f.text)
		}
		return false, fmt.Errorf("the filter has no answer: %w", err)
	}
	return answer.truth(), nil
}

// view is bytes of the record as a text. The record outlives the evaluation, and no
// text does.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// fault is an error at a place of the expression, in characters from its start.
type fault struct {
	at      int
	message string
}

func (f *fault) Error() string { return f.message }

func faultAt(at int, format string, args ...any) *fault {
	return &fault{at, fmt.Sprintf(format, args...)}
}

// in finds line and column.
func (f *fault) in(text string) *SyntaxError {
	e := &SyntaxError{Line: 1, Column: 1, Message: f.message}
	left := f.at
	for _, r := range text {
		if left == 0 {
			break
		}
		left--
		if e.Column++; r == '\n' {
			e.Line, e.Column = e.Line+1, 1
		}
	}
	return e
}

// budget is what an evaluation may still cost: steps count nodes and bytes that were
// looked at, made counts the bytes of texts that did not exist before.
//
// Both grow with the record, so a filter that is affordable for a small one is so
// for a large one.
type budget struct{ steps, made int }

func budgetFor(r *record.Record) budget {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return budget{steps: 4<<20 + 256*size, made: 256<<10 + 16*size}
}

// look takes account of n bytes, or items, that are looked at.
func (b *budget) look(n int) { b.steps -= n }

// round begins another item of a list, for which n nodes are evaluated.
func (b *budget) round(at, n int) error {
	if b.steps -= n; b.steps < 0 {
		return faultAt(at, "it costs too much to go through this list; look for less in each of its items")
	}
	return nil
}

// make takes account of a text of n bytes that is about to be made.
func (b *budget) make(at, n int) error {
	b.look(n)
	if b.made -= n; b.made < 0 {
		return faultAt(at, "too much text is made of this record; lower, upper and + make a new one each time")
	}
	return nil
}
