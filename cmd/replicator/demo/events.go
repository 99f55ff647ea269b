package demo

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
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
	File string // NDJSON, gzip if it ends in .gz; empty for the earthquakes that ship with the program
	Key  string // dotted path to the key
	Time string // dotted path to the time: milliseconds since 1970, or RFC 3339
}

// Load reads all events. An error names the file and the line.
func (in Input) Load() ([]Event, error) {
	name, src := "earthquakes", io.Reader(bytes.NewReader(earthquakes))
	zipped := true
	if in.File != "" {
		f, err := os.Open(in.File)
		if err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		defer f.Close()
		name, src, zipped = in.File, f, strings.HasSuffix(in.File, ".gz")
	}
	if zipped {
		r, err := gzip.NewReader(src)
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", name, err)
		}
		src = r
	}
	var events []Event
	lines := bufio.NewScanner(src)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		e, err := in.event(bytes.Clone(lines.Bytes()))
		if err != nil {
			return nil, fmt.Errorf("input %s:%d: %w", name, n, err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("input %s after line %d: %w", name, len(events), err)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("input %s: no events in it", name)
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
