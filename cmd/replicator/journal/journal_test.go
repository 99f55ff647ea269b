package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func open(t *testing.T, dir string, segment, most int64) *Journal {
	t.Helper()
	j, err := Open(Config{Dir: dir, SegmentBytes: segment, MaxBytes: most})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func add(t *testing.T, j *Journal, seqs ...uint64) {
	t.Helper()
	for _, seq := range seqs {
		if err := j.Append(Entry{seq, json.RawMessage(fmt.Sprintf(`{"n": %d}`, seq))}); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, j *Journal, after uint64) (seqs []uint64, damage []Damage) {
	t.Helper()
	damage, err := j.Read(after, func(e Entry) bool {
		if want := fmt.Sprintf(`{"n":%d}`, e.Seq); string(e.Value) != want {
			t.Errorf("entry %d is %s", e.Seq, e.Value)
		}
		seqs = append(seqs, e.Seq)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return seqs, damage
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEntriesComeBack(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<20, 1<<22)
	add(t, j, 1, 2, 3, 7) // numbered elsewhere: 4 to 6 were never received
	for range 2 {
		if seqs, damage := read(t, j, 2); !slices.Equal(seqs, []uint64{3, 7}) || len(damage) > 0 {
			t.Errorf("got %v, %v", seqs, damage)
		}
		if err := j.Append(Entry{7, json.RawMessage(`1`)}); err == nil {
			t.Error("a number was taken twice")
		}
		j = open(t, dir, 1<<20, 1<<22) // again
		if j.Last() != 7 {
			t.Errorf("the last is %d", j.Last())
		}
	}
	add(t, j, 8)
	if n := len(files(t, dir)); n != 1 {
		t.Errorf("%d files", n)
	}
	for _, wrong := range []Entry{{9, nil}, {9, json.RawMessage(`{`)}, {9, json.RawMessage(`"` + strings.Repeat("x", MaxEntry) + `"`)}} {
		if err := j.Append(wrong); err == nil {
			t.Errorf("%.20s was taken", wrong.Value)
		}
	}
	if seqs, damage := read(t, j, 0); len(seqs) != 5 || len(damage) > 0 {
		t.Errorf("got %v, %v", seqs, damage)
	}
}

func TestTheOldestAreForgotten(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 400, 1600)
	for seq := range uint64(200) {
		add(t, j, seq+1)
	}
	var total int64
	for _, f := range files(t, dir) {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 1600 {
		t.Errorf("%d bytes", total)
	}
	seqs, damage := read(t, j, 0)
	if len(damage) > 0 || len(seqs) < 10 || seqs[len(seqs)-1] != 200 {
		t.Errorf("got %v, %v", seqs, damage)
	}
	if seqs, _ := read(t, j, 198); !slices.Equal(seqs, []uint64{199, 200}) {
		t.Errorf("got %v", seqs)
	}
}

// Whatever happens to the files is named, with its place, and what is whole is
// read; the journal goes on.
func TestDamageIsFound(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, files []string)
		intact []uint64 // of 1 to 12, in files of 4
		want   string   // "" if nothing is to be told
	}{
		{"nothing", func(*testing.T, []string) {}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, ""},
		{"a line that was being written", edit(2, func(b []byte) []byte { return append(b, `{"seq":13,"su`...) }), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, ""},
		{"the last line is torn", edit(2, func(b []byte) []byte { return b[:len(b)-5] }), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, ""},
		{"a flipped bit in an entry", edit(1, replace(`{"n":6}`, `{"n":7}`)), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, "5.jsonl:3: entry 6 or what is before it is not what was written"},
		{"a flipped bit in a sum", edit(0, func(b []byte) []byte { i := bytes.Index(b, []byte(`"seq":2`)); b[i+16] ^= 1; return b }), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, "1.jsonl:3: entry 2"},
		{"a line taken out", edit(1, func(b []byte) []byte { i, k := nth(b, 2), nth(b, 3); return append(b[:i:i], b[k:]...) }), []uint64{1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12}, "5.jsonl:3: entry 7"},
		{"a line is garbage", edit(1, replace(`{"seq":6`, `xxxxxxxx`)), []uint64{1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12}, "5.jsonl:3: this is not a line"},
		{"a file taken out", func(t *testing.T, f []string) { must(t, os.Remove(f[1])) }, []uint64{1, 2, 3, 4, 9, 10, 11, 12}, "9.jsonl:1: it does not follow"},
		{"an older file is cut", edit(0, func(b []byte) []byte { return b[:nth(b, 4)] }), []uint64{1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12}, "5.jsonl:1: it does not follow"},
		{"a foreign file", edit(0, func([]byte) []byte { return []byte("hello\nworld\n") }), []uint64{5, 6, 7, 8, 9, 10, 11, 12}, "1.jsonl:1: this is not the head"},
		{"the last file is damaged", edit(2, replace(`{"n":10}`, `{"n":11}`)), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, "9.jsonl:3: entry 10"},
		{"the last file is empty", edit(2, func([]byte) []byte { return nil }), []uint64{1, 2, 3, 4, 5, 6, 7, 8}, "13.jsonl:1: it does not follow"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, 280, 1<<20)
			for seq := range uint64(12) {
				add(t, j, seq+1)
			}
			all := files(t, dir)
			if len(all) != 3 {
				t.Fatalf("%d files", len(all))
			}
			must(t, j.Close())
			c.do(t, all)
			j = open(t, dir, 280, 1<<20)
			goesOn := max(j.Last(), 12) + 1
			must(t, j.Append(Entry{goesOn, json.RawMessage(fmt.Sprintf(`{"n":%d}`, goesOn))}))
			var seqs []uint64
			damage, err := j.Read(0, func(e Entry) bool { seqs = append(seqs, e.Seq); return true })
			must(t, err)
			if want := append(c.intact, goesOn); !slices.Equal(seqs, want) {
				t.Errorf("read %v, want %v", seqs, want)
			}
			told := fmt.Sprint(damage)
			if c.want == "" && len(damage) > 0 || !strings.Contains(told, c.want) {
				t.Errorf("told %s, want %q", told, c.want)
			}
		})
	}
}

// A crash may leave a file of which nothing but the head, or nothing at all, was
// written: the numbers go on, and no older file is written over.
func TestAFileThatWasOnlyBegun(t *testing.T) {
	for _, c := range []struct {
		name string
		keep func([]byte) int
		last uint64
		told bool // what was in an emptied file is not known
	}{
		{"only the head", func(b []byte) int { return nth(b, 1) }, 8, false},
		{"half of the head", func(b []byte) int { return nth(b, 1) - 3 }, 8, true},
		{"nothing", func([]byte) int { return 0 }, 8, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, 280, 1<<20)
			add(t, j, 1, 2, 3, 4, 5, 6, 7, 8, 9)
			must(t, j.Close())
			edit(2, func(b []byte) []byte { return b[:c.keep(b)] })(t, files(t, dir))
			j = open(t, dir, 280, 1<<20)
			if j.Last() != c.last {
				t.Errorf("the last is %d, want %d", j.Last(), c.last)
			}
			add(t, j, j.Last()+1)
			seqs, damage := read(t, j, 0)
			if want := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}; !slices.Equal(seqs, want) || len(damage) > 0 != c.told {
				t.Errorf("read %v, %v", seqs, damage)
			}
		})
	}
}

// What a full disk has taken half of is not damage, neither in a segment nor where
// one was to begin.
func TestAWriteThatFailsLeavesNothing(t *testing.T) {
	for name, begin := range map[string]func(j *Journal) string{
		"in a segment": func(*Journal) string { return nameOf(1) },
		"of the head": func(j *Journal) string {
			j.segments = append(j.segments, segment{name: nameOf(5)})
			return nameOf(5)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, 1<<20, 1<<22)
			add(t, j, 1, 2, 3, 4)
			f, err := os.OpenFile(filepath.Join(dir, begin(j)), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
			must(t, err)
			_, err = f.WriteString(`{"seq":5,"su`)
			must(t, errors.Join(err, f.Close(), j.file.Close())) // the next write fails
			if err := j.Append(Entry{5, json.RawMessage(`{"n":5}`)}); err == nil {
				t.Fatal("a write into a closed file went well")
			}
			if name == "in a segment" {
				add(t, j, 5) // behind it, in another
			}
			must(t, j.Close())
			j = open(t, dir, 1<<20, 1<<22)
			add(t, j, j.Last()+1)
			if seqs, damage := read(t, j, 0); !slices.Equal(seqs[:5], []uint64{1, 2, 3, 4, 5}) || len(damage) > 0 {
				t.Errorf("read %v, %v", seqs, damage)
			}
		})
	}
}

func edit(file int, change func([]byte) []byte) func(*testing.T, []string) {
	return func(t *testing.T, f []string) {
		b, err := os.ReadFile(f[file])
		must(t, err)
		must(t, os.WriteFile(f[file], change(b), 0o600))
	}
}

func replace(from, to string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
}

// nth is where line n begins.
func nth(b []byte, n int) int {
	at := 0
	for range n {
		at += bytes.IndexByte(b[at:], '\n') + 1
	}
	return at
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever lies in the folder, a journal opens, reads and goes on.
func FuzzSegment(f *testing.F) {
	f.Add([]byte("{\"journal\":1,\"sum\":\"\"}\n{\"seq\":1,\"sum\":\"x\",\"entry\":1}\n"))
	f.Add([]byte("{\"journal\":1,\"sum\":\"\"}\n{\"seq\":18446744073709551615,\"sum\":\"x\",\"entry\":1}\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, nameOf(1)), b, 0o600))
		j, err := Open(Config{Dir: dir, SegmentBytes: 100, MaxBytes: 1000})
		must(t, err)
		defer j.Close()
		if j.Last()+1 == 0 {
			return // there is no number behind it
		}
		seq := j.Last() + 1
		must(t, j.Append(Entry{seq, json.RawMessage(`true`)}))
		found := false
		_, err = j.Read(j.Last()-1, func(e Entry) bool { found = e.Seq == seq && string(e.Value) == "true"; return !found })
		must(t, err)
		if !found {
			t.Fatal("what was appended is not there")
		}
	})
}
