package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/waybillhq/waybill/internal/vfs"
)

// MaxEntry is the most bytes that an entry may have.
const MaxEntry = 64 << 10

// Config bounds a journal.
type Config struct {
	Dir string
	// SegmentBytes is how large a segment becomes, MaxBytes all of them together.
	SegmentBytes, MaxBytes int64
}

// Entry is one line.
type Entry struct {
	Seq   uint64
	Value json.RawMessage // one JSON value, without line breaks
}

// Damage is a place that is not as it was written.
type Damage struct {
	File   string // base name
	Line   int    // from 1
	Reason string
}

func (d Damage) String() string { return fmt.Sprintf("%s:%d: %s", d.File, d.Line, d.Reason) }

// Journal appends to a folder of files and reads them.
type Journal struct {
	conf Config

	mu       sync.Mutex
	segments []segment // oldest first; the last one is written to
	file     *os.File  // of the last one, nil until something is appended
	last     uint64    // sequence number of the newest entry
	sum      string    // of the newest line
}

type segment struct {
	name string
	size int64
}

type header struct {
	Journal int    `json:"journal"`
	Sum     string `json:"sum"`
}

type line struct {
	Seq   uint64          `json:"seq"`
	Sum   string          `json:"sum"`
	Entry json.RawMessage `json:"entry"`
}

func link(before string, seq uint64, entry []byte) string {
	h := sha256.New()
	h.Write([]byte(before))
	h.Write([]byte("/" + strconv.FormatUint(seq, 10) + "/"))
	h.Write(entry)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Open opens the journal in a folder, which it makes if there is none. Damage does
// not keep it from opening.
func Open(conf Config) (*Journal, error) {
	if conf.SegmentBytes <= 0 || conf.MaxBytes < conf.SegmentBytes {
		return nil, fmt.Errorf("journal: segments of %d bytes within %d make no sense", conf.SegmentBytes, conf.MaxBytes)
	}
	if err := os.MkdirAll(conf.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &Journal{conf: conf}
	files, err := os.ReadDir(conf.Dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	for _, f := range files { // in order of name
		if !strings.HasSuffix(f.Name(), suffix) {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		j.segments = append(j.segments, segment{f.Name(), info.Size()})
	}
	if len(j.segments) == 0 {
		return j, nil
	}
	return j, j.recover()
}

const suffix = ".jsonl"

func nameOf(first uint64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// recover finds the end of the last segment. One that is damaged is not written
// to any more.
func (j *Journal) recover() error {
	s := &j.segments[len(j.segments)-1]
	path := filepath.Join(j.conf.Dir, s.name)
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if end := bytes.LastIndexByte(b, '\n') + 1; end < len(b) {
		if err := os.Truncate(path, int64(end)); err != nil {
			return fmt.Errorf("journal: cut a torn line off: %w", err)
		}
		s.size, b = int64(end), b[:end]
	}
	c := chain{any: true}
	damaged := c.segment(s.name, b, func(e Entry) bool { return true })
	j.last, j.sum = c.seq, c.sum
	if first, err := strconv.ParseUint(strings.TrimSuffix(s.name, suffix), 10, 64); err == nil && first > 0 {
		if c.seq == 0 && len(damaged) == 0 {
			first-- // it was begun for that entry, which never came
		}
		j.last = max(j.last, first) // also if no line of it can be read
	}
	if len(damaged) > 0 || len(b) == 0 {
		return nil // Append begins another
	}
	j.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// Last is the sequence number of the newest entry, 0 if there is none.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Append writes entries, whose sequence numbers grow and are above all before, and
// returns when they are on disk. After an error the journal goes on in a new file,
// and what of these entries was written is cut off again if that can be done.
func (j *Journal) Append(entries ...Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	last, sum := j.last, j.sum
	var b []byte
	for _, e := range entries {
		switch {
		case e.Seq <= last:
			return fmt.Errorf("journal: entry %d behind entry %d", e.Seq, last)
		case len(e.Value) > MaxEntry:
			return fmt.Errorf("journal: entry of %d bytes, at most %d", len(e.Value), MaxEntry)
		}
		var value bytes.Buffer
		if err := json.Compact(&value, e.Value); err != nil {
			return fmt.Errorf("journal: entry %d: %w", e.Seq, err)
		}
		sum, last = link(sum, e.Seq, value.Bytes()), e.Seq
		b = append(b, `{"seq":`...)
		b = strconv.AppendUint(b, e.Seq, 10)
		b = append(b, `,"sum":"`+sum+`","entry":`...)
		b = append(b, value.Bytes()...)
		b = append(b, "}\n"...)
	}
	if len(entries) == 0 {
		return nil
	}
	if err := j.makeRoom(entries[0].Seq); err != nil {
		return err
	}
	if err := j.write(b); err != nil {
		return err
	}
	j.last, j.sum = last, sum
	return nil
}

// makeRoom begins a segment if there is none, or the present one is large enough.
func (j *Journal) makeRoom(first uint64) error {
	if j.file != nil && j.segments[len(j.segments)-1].size < j.conf.SegmentBytes {
		return nil
	}
	if j.file != nil {
		err := j.file.Close()
		j.file = nil
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(j.conf.Dir, nameOf(first)), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.file = f
	if n := len(j.segments); n > 0 && j.segments[n-1].name == nameOf(first) { // empty, or of an append that failed
		j.segments = j.segments[:n-1]
	}
	j.segments = append(j.segments, segment{name: nameOf(first)})
	h, err := json.Marshal(header{1, j.sum})
	if err != nil {
		return err
	}
	if err := j.write(append(h, '\n')); err != nil {
		return err
	}
	if err := (vfs.OS{}).SyncDir(j.conf.Dir); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return j.forget()
}

func (j *Journal) write(b []byte) error {
	_, err := j.file.Write(b)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("journal: %w", err), j.file.Close(), j.undo())
		j.file = nil
		return err
	}
	j.segments[len(j.segments)-1].size += int64(len(b))
	return nil
}

// undo cuts off what a write that failed has left: a full disk is not damage.
func (j *Journal) undo() error {
	n := len(j.segments) - 1
	s := j.segments[n]
	path := filepath.Join(j.conf.Dir, s.name)
	if s.size > 0 {
		return os.Truncate(path, s.size)
	}
	j.segments = j.segments[:n]
	return os.Remove(path)
}

// forget removes the oldest segments while all together are too large.
func (j *Journal) forget() error {
	var total int64
	for _, s := range j.segments {
		total += s.size
	}
	for len(j.segments) > 1 && total > j.conf.MaxBytes-j.conf.SegmentBytes {
		oldest := j.segments[0]
		if err := os.Remove(filepath.Join(j.conf.Dir, oldest.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("journal: remove the oldest: %w", err)
		}
		j.segments, total = j.segments[1:], total-oldest.size
	}
	return nil
}

// Close closes the file. Later calls of Append open another.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// Read calls visit with every entry above after, in order, until it returns false,
// and says what is damaged in what it has read. The first entries may be gone.
func (j *Journal) Read(after uint64, visit func(Entry) bool) ([]Damage, error) {
	j.mu.Lock()
	segments := slices.Clone(j.segments)
	j.mu.Unlock()
	from := 0
	for i := range segments {
		if first, err := strconv.ParseUint(strings.TrimSuffix(segments[i].name, suffix), 10, 64); err == nil && first <= after {
			from = i
		}
	}
	var damage []Damage
	c := chain{any: true} // the segment before may be gone
	more := true
	for _, s := range segments[from:] {
		b, err := readUpTo(filepath.Join(j.conf.Dir, s.name), s.size)
		if errors.Is(err, fs.ErrNotExist) { // forgotten meanwhile
			c.any = true
			continue
		}
		if err != nil {
			return damage, fmt.Errorf("journal: %w", err)
		}
		damage = append(damage, c.segment(s.name, b, func(e Entry) bool {
			if e.Seq > after {
				more = visit(e)
			}
			return more
		})...)
		if !more {
			break
		}
	}
	return damage, nil
}

// readUpTo reads a file as long as it was: what is being appended is not whole.
func readUpTo(path string, size int64) ([]byte, error) {
	b, err := os.ReadFile(path)
	return b[:min(int64(len(b)), size)], err
}
