package commitlog

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// DumpOptions say how much of a log a dump lists.
type DumpOptions struct {
	// Batches lists every batch, and every entry of an index.
	Batches bool
	// Records lists every record, and the batches too.
	Records bool
}

// DumpItem is one thing that a dump found.
type DumpItem struct {
	File string `json:"file"` // as the caller's directory and the name in it
	// Position is where in the file it begins, in bytes.
	Position int64 `json:"position"`
	// What is the kind of the thing; a damaged one is "damage".
	What   string       `json:"what"`
	Detail fmt.Stringer `json:"detail"`
}

// Damaged says whether the item names damage.
func (i DumpItem) Damaged() bool { return i.What == dumpDamage }

func (i DumpItem) String() string {
	if i.Damaged() {
		return fmt.Sprintf("%s: byte %d: DAMAGED: %s", i.File, i.Position, i.Detail)
	}
	return fmt.Sprintf("%s: byte %d: %s %s", i.File, i.Position, i.What, i.Detail)
}

const dumpDamage = "damage"

// DumpDamage is the detail of an item of damage.
type DumpDamage struct {
	Reason string `json:"reason"`
}

func (d DumpDamage) String() string { return d.Reason }

// NewDumpDamage is an item that names damage.
func NewDumpDamage(file string, position int64, reason string) DumpItem {
	return DumpItem{file, position, dumpDamage, DumpDamage{reason}}
}

// dumpRecords bounds what one batch may hold when it is decompressed for a dump.
const dumpRecords = 128 << 20

// Dump hands what the named files of a log hold to emit; without names those of
// the whole directory, which are then also held against its checkpoint. It changes
// nothing, needs no lock, and goes on past damage, which it hands out like the
// rest. Of a log in use it sees files at different moments: what it calls damage
// counts when the broker is stopped. It returns the first error of emit, or why
// the directory cannot be read.
func Dump(fsys vfs.FS, dir string, names []string, opts DumpOptions, emit func(DumpItem) error) error {
	d := dumper{fs: fsys, dir: dir, opts: opts, sink: emit}
	all, err := fsys.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("dump log: %w", err)
	}
	d.context(all)
	whole := names == nil
	if whole {
		names = all
	}
	for _, name := range names {
		if err := d.file(name); err != nil && !(whole && errors.Is(err, fs.ErrNotExist)) { // a live log may just have removed it
			d.damage(name, 0, err.Error())
		}
		if d.err != nil {
			return d.err
		}
	}
	if whole {
		d.compare()
	}
	return d.err
}

// IsLogFile says whether a file of that name may be one of a log.
func IsLogFile(name string) bool {
	name = strings.TrimSuffix(strings.TrimSuffix(name, tmpSuffix), cleanedSuffix)
	_, _, ok := parseAny(name)
	return ok || name == checkpointName || name == recoveryName || name == mirrorName
}

type dumper struct {
	fs    vfs.FS
	dir   string
	opts  DumpOptions
	sink  func(DumpItem) error
	err   error // the first of the sink
	point durablePoint
	known *checkpoint // nil if there is none that can be read
	last  int64       // base of the last segment

	unreadable bool // the checkpoint is there, and damaged
}

func (d *dumper) item(name string, pos int64, what string, detail fmt.Stringer) {
	if d.err == nil {
		d.err = d.sink(DumpItem{filepath.Join(d.dir, name), pos, what, detail})
	}
}

func (d *dumper) damage(name string, pos int64, reason string) {
	d.item(name, pos, dumpDamage, DumpDamage{reason})
}

// listing says whether single batches and entries are asked for.
func (d *dumper) listing() bool { return d.opts.Batches || d.opts.Records }

// text is a detail that has no parts.
type text string

func (t text) String() string { return string(t) }

// file dumps one file. What it does not know, it names.
func (d *dumper) file(name string) error {
	if why := d.leftover(name); why != "" {
		d.item(name, 0, "leftover", text(why))
		return nil
	}
	if at, suffix, ok := parseAny(strings.TrimSuffix(name, cleanedSuffix)); ok {
		return map[string]func(string, int64) error{
			logSuffix: d.segment, offsetSuffix: d.offsetIndex, timeSuffix: d.timeIndex, abortedSuffix: d.aborted, snapshotSuffix: d.snapshot,
		}[suffix](name, at)
	}
	switch name {
	case checkpointName:
		return d.checkpoint(name)
	case recoveryName:
		return d.points(name)
	case mirrorName:
		return d.mirror(name)
	}
	d.item(name, 0, "unknown", text("not a file of a log"))
	return nil
}

type dumpedSegment struct {
	Base      int64 `json:"base"`
	Next      int64 `json:"next"` // offset after the last batch
	Batches   int64 `json:"batches"`
	Records   int64 `json:"records"`
	Bytes     int64 `json:"bytes"`
	FileBytes int64 `json:"fileBytes"`
}

func (s dumpedSegment) String() string {
	return fmt.Sprintf("%d..%d, %d batches, %d records, %d bytes", s.Base, s.Next-1, s.Batches, s.Records, s.Bytes)
}

func (d *dumper) segment(name string, base int64) error {
	f, err := d.fs.Open(filepath.Join(d.dir, name))
	if err != nil {
		return err
	}
	defer f.Close() // Nothing was written: a close cannot lose anything.
	size, err := f.Size()
	if err != nil {
		return err
	}
	sum := dumpedSegment{Base: base, Next: base, FileBytes: size}
	// The offset and the leader epoch of a batch have no checksum of their own.
	dense := d.known != nil && !d.known.Sparse && !d.sealed(base).Cleaned
	if c := d.cut(base); c != nil && c.Size < size {
		size = c.Size
		defer d.item(name, size, "leftover", text("the checkpoint intends to cut it off, which the next start does"))
	}
	stop, damage, err := scan(f, 0, size, base, dense, func(pos int64, b record.Batch) error {
		if d.known != nil {
			if err := checkEpoch(b, d.known.Epochs, d.known.Start); err != nil {
				return err
			}
		}
		sum.Batches, sum.Records, sum.Next = sum.Batches+1, sum.Records+int64(b.Count()), b.NextOffset()
		d.batch(name, pos, b)
		return d.err
	})
	if err != nil {
		return err
	}
	sum.Bytes = stop
	d.item(name, 0, "segment", sum)
	strict := name != fileName(d.last, logSuffix) || d.known != nil && d.known.Active > base
	promised := int64(0)
	if d.point.base == base && !strict {
		promised = d.point.size
	}
	switch {
	case stop < promised:
		reason := "the file ends"
		if damage != nil {
			reason = damage.Error()
		}
		d.damage(name, stop, fmt.Sprintf("%s, and what lies before byte %d was durable; the next offset is %d", reason, promised, sum.Next))
		return nil
	case damage == nil:
		return nil
	}
	rest, err := lengthWithoutZeros(f, stop, size)
	switch {
	case err != nil:
		return err
	case strict:
		d.damage(name, stop, fmt.Sprintf("%v; the next offset is %d", damage, sum.Next))
	case rest == 0:
		d.item(name, stop, "preallocated", text(fmt.Sprintf("up to byte %d", size)))
	default:
		d.item(name, stop, "torn", text(fmt.Sprintf("%v; it was not durable yet, the next start cuts it", damage)))
	}
	return nil
}

type dumpedBatch struct {
	BaseOffset    int64  `json:"baseOffset"`
	LastOffset    int64  `json:"lastOffset"`
	Count         int32  `json:"count"`
	Bytes         int    `json:"bytes"`
	Codec         string `json:"codec"`
	LeaderEpoch   int32  `json:"leaderEpoch"`
	ProducerID    int64  `json:"producerId"`
	ProducerEpoch int16  `json:"producerEpoch"`
	BaseSequence  int32  `json:"baseSequence"`
	Transactional bool   `json:"transactional"`
	Control       bool   `json:"control"`
	DeleteHorizon bool   `json:"deleteHorizon"` // the base timestamp is it
	BaseTimestamp int64  `json:"baseTimestamp"`
	MaxTimestamp  int64  `json:"maxTimestamp"`
	Marker        string `json:"marker,omitempty"` // of a control batch that ends a transaction
}

func (b dumpedBatch) String() string {
	s := fmt.Sprintf("%d..%d, %d records, %d bytes, %s, epoch %d, newest timestamp %d",
		b.BaseOffset, b.LastOffset, b.Count, b.Bytes, b.Codec, b.LeaderEpoch, b.MaxTimestamp)
	if b.ProducerID >= 0 {
		s += fmt.Sprintf(", producer %d epoch %d sequence %d", b.ProducerID, b.ProducerEpoch, b.BaseSequence)
	}
	if b.Transactional {
		s += ", transactional"
	}
	if b.Control {
		s += ", control"
	}
	if b.Marker != "" {
		s += ", " + b.Marker
	}
	if b.DeleteHorizon {
		s += fmt.Sprintf(", delete horizon %d", b.BaseTimestamp)
	}
	return s
}

type dumpedRecord struct {
	Offset    int64  `json:"offset"`
	Timestamp int64  `json:"timestamp"`
	Key       []byte `json:"key"`
	Value     []byte `json:"value"`
}

func (r dumpedRecord) String() string {
	return fmt.Sprintf("%d, timestamp %d, key %s, value %s", r.Offset, r.Timestamp, quote(r.Key), quote(r.Value))
}

func quote(b []byte) string {
	if b == nil {
		return "null"
	}
	return fmt.Sprintf("%q", b)
}

func (d *dumper) batch(name string, pos int64, b record.Batch) {
	if !d.listing() {
		return
	}
	a := b.Attributes()
	out := dumpedBatch{
		b.BaseOffset(), b.LastOffset(), b.Count(), len(b), a.Codec().String(), b.LeaderEpoch(), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(),
		a.Transactional(), a.Control(), a.DeleteHorizon(), b.BaseTimestamp(), b.MaxTimestamp(), "",
	}
	if a.Control() {
		switch m, err := decodeMarker(b); {
		case err == nil && m.Commit:
			out.Marker = "commit"
		case err == nil:
			out.Marker = "abort"
		case !errors.Is(err, errNoMarker):
			d.damage(name, pos, err.Error())
		}
	}
	d.item(name, pos, "batch", out)
	if !d.opts.Records || b.Count() == 0 {
		return
	}
	records, err := b.Decode(dumpRecords)
	if err != nil {
		d.damage(name, pos, fmt.Sprintf("records from offset %d: %v", b.BaseOffset(), err))
		return
	}
	for _, r := range records {
		d.item(name, pos, "record", dumpedRecord{r.Offset, r.Timestamp, r.Key, r.Value})
	}
}
