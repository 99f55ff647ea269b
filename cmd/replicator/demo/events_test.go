package demo

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInputOfOnesOwn(t *testing.T) {
	const lines = `{"user": {"id": "b"}, "at": "2020-02-03T04:05:06Z"}` + "\r\n\n" + `{"user": {"id": 1.50}, "at": 1517443200000}` + "\n" + `{"at": 7}`
	for name, content := range map[string][]byte{
		"plain":                          []byte(lines),
		"gzip":                           zipped(t, lines),
		"gzip of two members":            append(zipped(t, lines[:10]), zipped(t, lines[10:])...),
		"a line as long as it may be":    []byte(lines + strings.Repeat(" ", maxLine-len(`{"at": 7}`)-1) + "\n"),
		"the last line ends, then blank": []byte(lines + "\n \n\n"),
	} {
		t.Run(name, func(t *testing.T) {
			events, err := Input{File: write(t, content), Key: "user.id", Time: "at"}.Load()
			if err != nil {
				t.Fatal(err)
			}
			if len(events) != 3 || string(events[0].Key) != "b" || string(events[1].Key) != "1.50" || events[2].Key != nil {
				t.Errorf("got %+v", events)
			}
			if string(events[2].Value) != `{"at": 7}` || events[0].Time.UnixMilli() != 1580702706000 || events[2].Time.UnixMilli() != 7 {
				t.Errorf("got %+v", events)
			}
		})
	}
}

func TestBadInputNamesItsPlace(t *testing.T) {
	const good = `{"id": "a", "at": 1}` + "\n"
	whole := zipped(t, strings.Repeat(good, 1000))
	for _, c := range []struct {
		name, want string
		content    []byte
		key        string
	}{
		{name: "no JSON", content: []byte(good + "\nnonsense\n"), want: ":3: not JSON"},
		{name: "two values in a line", content: []byte(good + `{"at": 2} {"at": 3}`), want: `:2: not one JSON value: " {\"at\": 3}" follows it`},
		{name: "cut off in a line", content: []byte(good + `{"at": 2`), want: ":2: not JSON"},
		{name: "no time", content: []byte(good + `{"id": "b"}`), want: `:2: no value at "at" for its time (see --time)`},
		{name: "a time that is none", content: []byte(`{"id": "b", "at": "yesterday"}`), want: `:1: value at "at": "yesterday" is neither`},
		{name: "half a millisecond", content: []byte(`{"id": "b", "at": 0.5}`), want: ":1: value at"},
		{name: "a line without end", content: []byte(good + strings.Repeat("x", 2*maxLine)), want: ":2: longer than 1048576 bytes"},
		{name: "gzip that is cut off", content: whole[:len(whole)-9], want: ": unexpected EOF"},
		{name: "gzip with a flipped checksum", content: append(whole[:len(whole)-8:len(whole)-8], 1, 2, 3, 4, 5, 6, 7, 8), want: "gzip: invalid checksum"},
		{name: "half a gzip header", content: whole[:5], want: ": gzip: unexpected EOF"},
		{name: "empty", want: "no events in it"},
		{name: "blank", content: []byte("\n  \n"), want: "no events in it"},
		{name: "a key that no event has", content: []byte(good), key: "user.id", want: `no event has a value at "user.id" for its key`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.key == "" {
				c.key = "id"
			}
			_, err := Input{File: write(t, c.content), Key: c.key, Time: "at"}.Load()
			var fault *InputError
			if !errors.As(err, &fault) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an InputError with %q", err, c.want)
			}
		})
	}
	if _, err := (Input{File: filepath.Join(t.TempDir(), "none"), Time: "at"}).Load(); err == nil || strings.Count(err.Error(), "none") != 1 {
		t.Errorf("a file that is not there: %v", err)
	}
}

func zipped(t *testing.T, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
