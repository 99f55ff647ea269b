package commitlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/waybillhq/waybill/internal/record"
	"github.com/waybillhq/waybill/internal/vfs"
)

// Dump writes what the files of a log hold, for people. It changes nothing, needs
// no lock, and goes on past damage, which it names. With batches it lists each
// one; without, what there is of them in a segment.
func Dump(fsys vfs.FS, dir string, batches bool, w io.Writer) error {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("dump log: %w", err)
	}
	d := dumper{fs: fsys, dir: dir, batches: batches, w: w}
	for _, name := range names {
		if err := d.file(name); err != nil {
			return fmt.Errorf("dump %s: %w", name, err)
		}
	}
	return d.err
}

type dumper struct {
	fs      vfs.FS
	dir     string
	batches bool
	w       io.Writer
	err     error // of the first write
}

func (d *dumper) print(format string, args ...any) {
	if d.err == nil {
		_, d.err = fmt.Fprintf(d.w, format, args...)
	}
}

// file dumps one file. What it does not know, it names.
func (d *dumper) file(name string) error {
	base, isLog := parseName(name, logSuffix)
	_, isSnapshot := parseName(name, snapshotSuffix)
	switch {
	case isLog:
		return d.segment(name, base)
	case isSnapshot:
		return d.content(name, d.snapshot)
	case name == checkpointName:
		return d.content(name, d.checkpoint)
	case name == recoveryName:
		return d.content(name, d.point)
	case strings.HasSuffix(name, abortedSuffix):
		return d.content(name, d.aborted)
	case strings.HasSuffix(name, timeSuffix):
		return d.content(name, func(name string, buf []byte) { d.print("%s: %d entries\n", name, len(buf)/timeEntry) })
	case strings.HasSuffix(name, offsetSuffix):
		return d.content(name, func(name string, buf []byte) { d.print("%s: %d entries\n", name, len(buf)/offsetEntry) })
	}
	d.print("%s: not a file of a log\n", name)
	return nil
}

func (d *dumper) content(name string, show func(name string, buf []byte)) error {
	buf, err := vfs.ReadFile(d.fs, filepath.Join(d.dir, name), checkpointLimit)
	if errors.Is(err, fs.ErrNotExist) { // A live log has just removed it.
		return nil
	}
	if err != nil {
		return err
	}
	show(name, buf)
	return nil
}

func (d *dumper) checkpoint(name string, buf []byte) {
	c, err := decodeCheckpoint(buf)
	if err != nil {
		d.print("%s: CORRUPT: %v\n", name, err)
		return
	}
	d.print("%s: start %d, active segment %d, %d sealed, sparse %v\n", name, c.Start, c.Active, len(c.Sealed), c.Sparse)
	for _, s := range c.Sealed {
		d.print("  sealed %d..%d, %d bytes, newest timestamp %d\n", s.Base, s.Next-1, s.Size, s.MaxTime)
	}
	for _, e := range c.Epochs {
		d.print("  leader epoch %d from offset %d\n", e.Epoch, e.Start)
	}
	if c.intents() {
		d.print("  not carried out: drop %v, cut %+v, empty %v\n", c.Drop, c.Cut, c.Empty)
	}
}

func (d *dumper) point(name string, buf []byte) {
	for at := 0; at+recoveryLen <= len(buf); at += recoverySlot {
		if seq, p, ok := decodePoint(buf[at:]); ok {
			d.print("%s: %d: segment %d durable up to byte %d\n", name, seq, p.base, p.size)
		}
	}
}

func (d *dumper) aborted(name string, buf []byte) {
	list, err := decodeAborted(buf)
	if err != nil {
		d.print("%s: CORRUPT: %v\n", name, err)
	}
	for _, a := range list {
		d.print("%s: producer %d aborted %d..%d, stable from %d\n", name, a.producerID, a.first, a.last, a.stable)
	}
}

func (d *dumper) snapshot(name string, buf []byte) {
	s, offset, err := decodeProducers(buf, 1)
	if err != nil {
		d.print("%s: CORRUPT: %v\n", name, err)
		return
	}
	d.print("%s: %d producers at offset %d\n", name, len(s.byID), offset)
	for _, p := range s.states() {
		d.print("  producer %d epoch %d, last sequence %d, last append %d, transaction from %d\n",
			p.ProducerID, p.ProducerEpoch, p.LastSequence, p.LastTimestamp, p.TxnStart)
	}
}

func (d *dumper) segment(name string, base int64) error {
	f, err := d.fs.Open(filepath.Join(d.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // Nothing was written: a close cannot lose anything.
	size, err := f.Size()
	if err != nil {
		return err
	}
	var count, records, next int64 = 0, 0, base
	stop, damage, err := scan(f, 0, size, base, false, func(pos int64, b record.Batch) error {
		count, records, next = count+1, records+int64(b.Count()), b.NextOffset()
		if d.batches {
			d.print("%s: byte %d: offsets %d..%d, %d records, %d bytes, %s, epoch %d, producer %d/%d/%d, transactional %v, control %v, newest timestamp %d\n",
				name, pos, b.BaseOffset(), b.LastOffset(), b.Count(), len(b), b.Attributes().Codec(), b.LeaderEpoch(),
				b.ProducerID(), b.ProducerEpoch(), b.BaseSequence(), b.Attributes().Transactional(), b.Attributes().Control(), b.MaxTimestamp())
		}
		return d.err
	})
	if err != nil {
		return err
	}
	d.print("%s: %d batches, %d records, offsets %d..%d, %d bytes\n", name, count, records, base, next-1, stop)
	if damage == nil {
		return nil
	}
	rest, err := lengthWithoutZeros(f, stop, size)
	if err != nil {
		return err
	}
	if rest == 0 {
		d.print("%s: preallocated up to byte %d\n", name, size)
		return nil
	}
	d.print("%s: UNREADABLE from byte %d: %v\n", name, stop, damage)
	return nil
}
