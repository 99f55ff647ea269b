package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

//go:embed data/earthquakes.ndjson.gz
var earthquakes []byte

// Event is one line of the input, and what it becomes as a record.
type Event struct {
	Key   []byte // nil if the line has nothing at the key's path
	Value []byte // the line
	Time  time.Time
}

// maxLine bounds one event; a destination refuses larger ones by default too.
const maxLine = 1 << 20

// Input says where events come from.
type Input struct {
	File string // NDJSON, gzip or not; empty for the earthquakes that ship with the program
	Key  string // dotted path to the key; empty for records without keys
	Time string // dotted path to the time: milliseconds since 1970, or RFC 3339
}

// InputError is a fault of the events, or of where to look in them. It names the
// file, and the line if it is one's.
type InputError struct {
	File string
	Line int // 0 if it is not about one
	Err  error
}

func (e *InputError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("input %s: %v", e.File, e.Err)
	}
	return fmt.Sprintf("input %s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap is the cause.
func (e *InputError) Unwrap() error { return e.Err }

// Load reads all events. Its errors are [InputError]s.
func (in Input) Load() ([]Event, error) {
	if in.File == "" {
		return in.read("earthquakes", bytes.NewReader(earthquakes))
	}
	f, err := os.Open(in.File)
	if err != nil {
		return nil, &InputError{File: in.File, Err: errors.Unwrap(err)} // the cause alone: the path is said
	}
	defer f.Close()
	return in.read(in.File, f)
}

func (in Input) read(name string, src io.Reader) ([]Event, error) {
	lines := bufio.NewReaderSize(src, maxLine+2) // and the line's end
	if magic, _ := lines.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		zipped, err := gzip.NewReader(lines)
		if err != nil {
			return nil, &InputError{File: name, Err: fmt.Errorf("gzip: %w", err)}
		}
		lines = bufio.NewReaderSize(zipped, maxLine+2)
	}
	var events []Event
	keyed := false
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("longer than %d bytes", maxLine)
		}
		if err != nil && !errors.Is(err, io.EOF) { // also a file that was cut off
			return nil, &InputError{name, n, err}
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			e, fault := in.event(bytes.Clone(line))
			if fault != nil {
				return nil, &InputError{name, n, fault}
			}
			keyed = keyed || e.Key != nil
			events = append(events, e)
		}
		if err != nil {
			break
		}
	}
	switch {
	case len(events) == 0:
		return nil, &InputError{File: name, Err: errors.New("no events in it: one JSON object a line is expected")}
	case !keyed && in.Key != "":
		return nil, &InputError{File: name, Err: fmt.Errorf("no event has a value at %q for its key (see --key; an empty one is for records without keys)", in.Key)}
	}
	return events, nil
}

func (in Input) event(line []byte) (Event, error) {
	var doc any
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber() // a key of 0.10 or 1e3 stays as it is written
	if err := dec.Decode(&doc); err != nil {
		return Event{}, fmt.Errorf("not JSON: %w", err)
	}
	if dec.InputOffset() != int64(len(line)) {
		return Event{}, fmt.Errorf("not one JSON value: %q follows it", line[dec.InputOffset():min(len(line), int(dec.InputOffset())+20)])
	}
	e := Event{Value: line}
	if v, ok := at(doc, in.Key); ok {
		e.Key = text(v)
	}
	v, ok := at(doc, in.Time)
	if !ok {
		return Event{}, fmt.Errorf("no value at %q for its time (see --time)", in.Time)
	}
	var err error
	if e.Time, err = instant(v); err != nil {
		return Event{}, fmt.Errorf("value at %q: %w", in.Time, err)
	}
	return e, nil
}

// at follows a dotted path through objects.
func at(doc any, path string) (any, bool) {
	for name := range strings.SplitSeq(path, ".") {
		object, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = object[name]; !ok || doc == nil {
			return nil, false
		}
	}
	return doc, true
}

func text(v any) []byte {
	if s, ok := v.(string); ok {
		return []byte(s)
	}
	b, err := json.Marshal(v)
	if err != nil { // what was decoded from JSON encodes to JSON
		panic("demo: " + err.Error())
	}
	return b
}

func instant(v any) (time.Time, error) {
	switch v := v.(type) {
	case json.Number:
		ms, err := strconv.ParseInt(v.String(), 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("%s is not a whole number of milliseconds", v)
		}
		return time.UnixMilli(ms), nil
	case string:
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return time.Time{}, fmt.Errorf("%q is neither milliseconds nor RFC 3339", v)
		}
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%T is neither milliseconds nor RFC 3339", v)
}
