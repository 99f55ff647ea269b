package commitlog

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"strings"

	"github.com/waybillhq/waybill/internal/vfs"
)

func (d *dumper) read(name string) ([]byte, error) {
	return vfs.ReadFile(d.fs, filepath.Join(d.dir, name), checkpointLimit)
}

type dumpedIndex struct {
	Entries int `json:"entries"`
}

func (i dumpedIndex) String() string { return fmt.Sprintf("%d entries", i.Entries) }

type dumpedOffset struct {
	Offset   int64 `json:"offset"`   // last of a batch
	Position int64 `json:"position"` // where that batch begins
}

func (e dumpedOffset) String() string {
	return fmt.Sprintf("offset %d at byte %d", e.Offset, e.Position)
}

type dumpedTime struct {
	Timestamp int64 `json:"timestamp"` // greatest so far
	Offset    int64 `json:"offset"`    // last of the batch that has it
}

func (e dumpedTime) String() string {
	return fmt.Sprintf("timestamp %d at offset %d", e.Timestamp, e.Offset)
}

// walk is over the headers of the segment that an index belongs to.
func (d *dumper) walk(name string, base int64) (headers, error) {
	segment := fileName(base, logSuffix)
	if cleaned := segment + cleanedSuffix; strings.HasSuffix(name, cleanedSuffix) && d.exists(cleaned) {
		segment = cleaned // else it has its place already
	}
	path := filepath.Join(d.dir, segment)
	size, err := d.fs.Size(path)
	if err != nil {
		return headers{}, fmt.Errorf("the segment of the index: %w", err)
	}
	var none *Files
	return headers{x: extent{base: base, next: math.MaxInt64, size: size, file: none.lazy(d.fs, path)}}, nil
}

// entries hands the whole entries of an index to show, and names the rest. The
// checkpoint vouches for so many bytes.
func (d *dumper) entries(name, what string, size int, durable int64, show func(pos int64, entry []byte)) error {
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	d.item(name, 0, what, dumpedIndex{len(buf) / size})
	at := 0
	for ; at+size <= len(buf); at += size {
		show(int64(at), buf[at:at+size])
	}
	if at < len(buf) {
		d.flaw(name, int64(at), durable, fmt.Sprintf("%d bytes are not a whole entry", len(buf)-at))
	}
	return nil
}

func (d *dumper) offsetIndex(name string, base int64) error {
	durable := d.sealed(base).Offsets
	h, err := d.walk(name, base)
	if err != nil {
		d.damage(name, 0, err.Error())
	} else {
		defer h.x.file.Close() // Nothing was written: a close cannot lose anything.
	}
	before := dumpedOffset{-1, -1}
	return d.entries(name, "offset index", offsetEntry, durable, func(pos int64, entry []byte) {
		e := dumpedOffset{base + int64(binary.BigEndian.Uint32(entry)), int64(binary.BigEndian.Uint32(entry[4:]))}
		if d.listing() {
			d.item(name, pos, "entry", e)
		}
		if e.Offset <= before.Offset || e.Position <= before.Position {
			d.flaw(name, pos, durable, fmt.Sprintf("%s does not follow %s", e, before))
		}
		before = e
		if err != nil {
			return
		}
		if b, _, damage := h.batch(e.Position); damage != nil || b.LastOffset() != e.Offset {
			d.flaw(name, pos, durable, fmt.Sprintf("%s: no such batch", e))
		}
	})
}

func (d *dumper) timeIndex(name string, base int64) error {
	durable := d.sealed(base).Times
	h, err := d.walk(name, base)
	if err != nil {
		d.damage(name, 0, err.Error())
	} else {
		defer h.x.file.Close() // Nothing was written: a close cannot lose anything.
	}
	before, at := dumpedTime{-1, -1}, int64(0)
	return d.entries(name, "time index", timeEntry, durable, func(pos int64, entry []byte) {
		e := dumpedTime{int64(binary.BigEndian.Uint64(entry)), base + int64(binary.BigEndian.Uint32(entry[8:]))}
		if d.listing() {
			d.item(name, pos, "entry", e)
		}
		if e.Timestamp <= before.Timestamp || e.Offset <= before.Offset {
			d.flaw(name, pos, durable, fmt.Sprintf("%s does not follow %s", e, before))
			return // the walk goes forward only
		}
		before = e
		for err == nil {
			b, next, damage := h.batch(at)
			if damage != nil || b.LastOffset() > e.Offset {
				d.flaw(name, pos, durable, fmt.Sprintf("%s: no such batch", e))
				return
			}
			at = next
			if b.LastOffset() == e.Offset {
				if b.MaxTimestamp() != e.Timestamp {
					d.flaw(name, pos, durable, fmt.Sprintf("%s: that batch has %d", e, b.MaxTimestamp()))
				}
				return
			}
		}
	})
}

type dumpedAborted struct {
	ProducerID   int64 `json:"producerId"`
	FirstOffset  int64 `json:"firstOffset"`
	LastOffset   int64 `json:"lastOffset"` // of its marker
	StableOffset int64 `json:"stableOffset"`
}

func (a dumpedAborted) String() string {
	return fmt.Sprintf("%d..%d of producer %d, stable from %d", a.FirstOffset, a.LastOffset, a.ProducerID, a.StableOffset)
}

func (d *dumper) aborted(name string, base int64) error {
	durable := d.sealed(base).Aborted
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	whole := len(buf) / abortedSize * abortedSize
	for at := 0; at < whole; at += abortedSize {
		list, err := decodeAborted(buf[at : at+abortedSize])
		if err != nil {
			d.flaw(name, int64(at), durable, err.Error())
			continue
		}
		a := list[0]
		d.item(name, int64(at), "aborted", dumpedAborted{a.producerID, a.first, a.last, a.stable})
		if a.first < 0 || a.first > a.last {
			d.flaw(name, int64(at), durable, "it begins behind its marker")
		}
	}
	if whole < len(buf) {
		d.flaw(name, int64(whole), durable, fmt.Sprintf("%d bytes are not a whole entry", len(buf)-whole))
	}
	return nil
}

type dumpedSnapshot struct {
	Offset    int64 `json:"offset"`
	Producers int   `json:"producers"`
}

func (s dumpedSnapshot) String() string {
	return fmt.Sprintf("at offset %d, %d producers", s.Offset, s.Producers)
}

// dumpedProducer is [ProducerState] with names for JSON.
type dumpedProducer struct {
	ProducerID       int64 `json:"producerId"`
	ProducerEpoch    int16 `json:"producerEpoch"`
	LastSequence     int32 `json:"lastSequence"`
	LastTimestamp    int64 `json:"lastTimestamp"`
	CoordinatorEpoch int32 `json:"coordinatorEpoch"`
	TxnStart         int64 `json:"txnStart"`
}

func (p dumpedProducer) String() string {
	return fmt.Sprintf("%d epoch %d, last sequence %d, last append %d, coordinator epoch %d, transaction from %d",
		p.ProducerID, p.ProducerEpoch, p.LastSequence, p.LastTimestamp, p.CoordinatorEpoch, p.TxnStart)
}

// dumpedProducerBatch is one that a retry is known by.
type dumpedProducerBatch struct {
	FirstSequence int32 `json:"firstSequence"`
	LastSequence  int32 `json:"lastSequence"`
	BaseOffset    int64 `json:"baseOffset"`
	LastOffset    int64 `json:"lastOffset"`
}

func (b dumpedProducerBatch) String() string {
	return fmt.Sprintf("sequences %d..%d at offsets %d..%d", b.FirstSequence, b.LastSequence, b.BaseOffset, b.LastOffset)
}

func (d *dumper) snapshot(name string, at int64) error {
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	s, offset, err := decodeProducers(buf, 1)
	if err != nil {
		durable := int64(0)
		if d.known != nil && (at <= d.known.Active || d.known.Known != nil && d.known.Known.Next == at) {
			durable = 1 // it was synced before the checkpoint that came next
		}
		d.flaw(name, 0, durable, err.Error())
		return nil
	}
	d.item(name, 0, "snapshot", dumpedSnapshot{offset, len(s.byID)})
	pos := int64(snapshotHead)
	for _, p := range s.states() {
		d.item(name, pos, "producer", dumpedProducer(p))
		pos += snapshotEntry
		for _, b := range s.byID[p.ProducerID].batches {
			if d.listing() {
				d.item(name, pos, "entry", dumpedProducerBatch{b.firstSeq, b.lastSeq, b.baseOffset, b.lastOffset})
			}
			pos += snapshotBatch
		}
	}
	if offset != at {
		d.damage(name, 6, fmt.Sprintf("it is of offset %d", offset))
	}
	return nil
}

// dumpedLine is the line of JSON that a file has, by the names of FORMAT.md.
type dumpedLine struct{ json.RawMessage }

func (l dumpedLine) String() string { return string(l.RawMessage) }

func newDumpedLine(buf []byte) dumpedLine {
	return dumpedLine{bytes.TrimSuffix(buf[:len(buf)-checksumLine], []byte("\n"))}
}

func (d *dumper) checkpoint(name string) error {
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	if _, err := decodeCheckpoint(buf); err != nil {
		d.damage(name, 0, err.Error())
		return nil
	}
	d.item(name, 0, "checkpoint", newDumpedLine(buf))
	return nil
}

func (d *dumper) mirror(name string) error {
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	if _, err := decodeMirror(buf); err != nil {
		d.damage(name, 0, err.Error())
		return nil
	}
	d.item(name, 0, "mirror", newDumpedLine(buf))
	return nil
}

type dumpedPoint struct {
	Sequence uint64 `json:"sequence"`
	Base     int64  `json:"base"`
	Size     int64  `json:"size"`
	Newest   bool   `json:"newest"`
}

func (p dumpedPoint) String() string {
	s := fmt.Sprintf("%d: segment %d durable up to byte %d", p.Sequence, p.Base, p.Size)
	if p.Newest {
		s += ", the one that counts"
	}
	return s
}

// points dumps both slots. One that was torn is not damage: the other counts.
func (d *dumper) points(name string) error {
	buf, err := d.read(name)
	if err != nil {
		return err
	}
	newest, _ := newestPoint(buf)
	never := func(slot []byte) bool { return len(slot) < 4 || string(slot[:4]) == "\x00\x00\x00\x00" }
	first := len(buf) < 2*recoverySlot || never(buf) || never(buf[recoverySlot:])
	for at := 0; at < len(buf); at += recoverySlot {
		slot := buf[at:min(at+recoverySlot, len(buf))]
		seq, p, ok := decodePoint(slot)
		switch {
		case ok:
			d.item(name, int64(at), "recovery point", dumpedPoint{seq, p.base, p.size, seq == newest})
		case never(slot):
			d.item(name, int64(at), "empty slot", text("never written"))
		case newest > 0:
			d.item(name, int64(at), "torn", text("a power cut while it was written; the other slot counts"))
		case first:
			d.item(name, int64(at), "torn", text("a power cut while the first was written"))
		default:
			d.damage(name, int64(at), "the slot's checksum does not match, and no other slot is whole")
		}
	}
	return nil
}

// compare holds the files against the checkpoint. While an intent is not carried
// out they differ by right.
func (d *dumper) compare() {
	if d.known == nil || d.known.intents() {
		return
	}
	for _, s := range d.known.Sealed {
		d.sized(fileName(s.Base, logSuffix), s.Size)
		d.sized(fileName(s.Base, offsetSuffix), s.Offsets)
		d.sized(fileName(s.Base, timeSuffix), s.Times)
		if s.Aborted == 0 {
			continue
		}
		name := fileName(s.Base, abortedSuffix)
		buf, err := d.read(name)
		switch {
		case err != nil || int64(len(buf)) != s.Aborted:
			d.sized(name, s.Aborted)
		case crc32.Checksum(buf, castagnoli) != s.AbortedCRC:
			d.damage(name, 0, "checksum is not the checkpoint's")
		}
	}
	if size, err := d.fs.Size(filepath.Join(d.dir, fileName(d.known.Active, logSuffix))); err != nil {
		d.damage(fileName(d.known.Active, logSuffix), 0, fmt.Sprintf("the checkpoint has it as the active segment: %v", err))
	} else if k := d.known.Known; k != nil && size < k.Size {
		d.damage(fileName(d.known.Active, logSuffix), size, fmt.Sprintf("the file ends, the checkpoint knows of %d bytes", k.Size))
	}
}

func (d *dumper) sized(name string, want int64) {
	size, err := d.fs.Size(filepath.Join(d.dir, name))
	switch {
	case err != nil:
		d.damage(name, 0, fmt.Sprintf("the checkpoint has it with %d bytes: %v", want, err))
	case size != want:
		d.damage(name, min(size, want), fmt.Sprintf("it has %d bytes, in the checkpoint %d", size, want))
	}
}
