package ledger

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

type kind uint8

const (
	kindBegin      kind = 1
	kindHop        kind = 2
	kindRetraction kind = 3
	kindWriter     kind = 4
	kindProduction kind = 5
	kindAccess     kind = 6
	kindEvent      kind = 7
	kindRules      kind = 8
	kindQuarantine kind = 9
	kindFold       kind = 10
	kindTails      kind = 11
	kindCut        kind = 12
	kindProgress   kind = 13
)

func (*Begin) kind() kind      { return kindBegin }
func (*Retraction) kind() kind { return kindRetraction }
func (*Writer) kind() kind     { return kindWriter }
func (*Production) kind() kind { return kindProduction }
func (*Access) kind() kind     { return kindAccess }
func (*Rules) kind() kind      { return kindRules }
func (*Quarantine) kind() kind { return kindQuarantine }

func (e *Hop) kind() kind {
	if e.Fold != nil {
		return kindFold
	}
	return kindHop
}

func (e *Begin) append(b []byte) []byte {
	b = appendEnd(appendEnd(b, e.Copy.Source), e.Copy.Destination)
	b = binary.AppendUvarint(b, e.Epoch)
	b = binary.AppendVarint(b, e.Resume)
	b = appendTime(b, e.At)
	return appendStrings(b, e.SourceCluster, e.DestinationCluster, e.SourceTopic, e.DestinationTopic, e.Flow, e.Fleet, e.Node, e.Lane)
}

func (e *Begin) read(r *reader) {
	e.Copy = CopyID{Source: r.end(), Destination: r.end()}
	e.Epoch = r.uvarint()
	e.Resume = r.offset()
	e.At = r.time()
	r.strings(&e.SourceCluster, &e.DestinationCluster, &e.SourceTopic, &e.DestinationTopic, &e.Flow, &e.Fleet, &e.Node, &e.Lane)
}

// A hop's runs and gaps tile its range, so their source offsets follow from
// their counts: they are written as one list in source order, each a count and
// a tag (0: run, else the gap's reason), and a run's destination as the
// difference to where the previous run ended.
func (e *Hop) append(b []byte) []byte {
	if e.Fold != nil {
		return e.appendFold(b)
	}
	return e.appendTiles(e.appendHead(b))
}

func (e *Hop) appendHead(b []byte) []byte {
	b = append(b, e.Copy[:]...)
	b = binary.AppendUvarint(b, e.Epoch)
	b = binary.AppendVarint(b, e.From)
	b = appendTime(b, e.At)
	b = binary.AppendVarint(b, int64(e.SourceLeaderEpoch))
	b = binary.AppendVarint(b, int64(e.DestinationLeaderEpoch))
	return binary.AppendVarint(b, e.Bytes)
}

// Tags of tiles. Others are reasons of gaps.
const (
	tagRun     = 0
	tagAltered = 255 // in folds: a run that is not to be equal to its source
)

func (e *Hop) runTag(r Run) byte {
	if e.Fold != nil && r.Path == Altered {
		return tagAltered
	}
	return tagRun
}

func (e *Hop) appendTiles(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(e.Runs)+len(e.Gaps)))
	var dest int64
	runs, gaps := e.Runs, e.Gaps
	for len(runs)+len(gaps) > 0 {
		if len(gaps) == 0 || (len(runs) > 0 && runs[0].Source < gaps[0].Source) {
			run := runs[0]
			runs = runs[1:]
			b = binary.AppendUvarint(append(b, e.runTag(run)), uint64(run.Count))
			b = binary.AppendVarint(b, run.Destination-dest)
			if e.Fold == nil {
				b = binary.BigEndian.AppendUint32(append(b, byte(run.Path)), run.Digest)
			}
			dest = run.Destination + run.Count
			continue
		}
		b = binary.AppendUvarint(append(b, byte(gaps[0].Reason)), uint64(gaps[0].Count))
		gaps = gaps[1:]
	}
	if e.Untraced {
		return b
	}
	return e.appendRoutes(b)
}

// The routes are the last field of a hop: each as the lives that it leads through,
// and then, if there is any, for each stretch of runs with one route how many they
// are and which.
func (e *Hop) appendRoutes(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(e.Routes)))
	for _, route := range e.Routes {
		b = binary.AppendUvarint(b, uint64(len(route)))
		for _, l := range route {
			b = appendLife(b, l)
		}
	}
	if len(e.Routes) == 0 {
		return b
	}
	for runs := e.Runs; len(runs) > 0; {
		n := 1
		for n < len(runs) && runs[n].Route == runs[0].Route {
			n++
		}
		b = binary.AppendUvarint(b, uint64(n))
		b = binary.AppendUvarint(b, uint64(runs[0].Route))
		runs = runs[n:]
	}
	return b
}

func (e *Hop) readRoutes(r *reader) {
	if e.Untraced = r.bad == "" && len(r.buf) == 0; e.Untraced {
		return
	}
	for n := r.count(1); n > 0 && r.bad == ""; n-- {
		var route Route
		for lives := r.count(1 + len(TopicID{})); lives > 0; lives-- {
			route = append(route, r.life())
		}
		e.Routes = append(e.Routes, route)
	}
	if len(e.Routes) == 0 {
		return
	}
	for runs := e.Runs; len(runs) > 0 && r.bad == ""; {
		n, route := r.uvarint(), r.uvarint()
		if n == 0 || n > uint64(len(runs)) || route > uint64(len(e.Routes)) {
			r.fail("route %d for %d of %d runs", route, n, len(runs))
			return
		}
		for i := range runs[:n] {
			runs[i].Route = int(route)
		}
		runs = runs[n:]
	}
}

func (e *Hop) read(r *reader) {
	e.readHead(r)
	e.readTiles(r)
}

func (e *Hop) readHead(r *reader) {
	copy(e.Copy[:], r.take(len(e.Copy)))
	e.Epoch = r.uvarint()
	e.From = r.offset()
	e.At = r.time()
	e.SourceLeaderEpoch = r.int32()
	e.DestinationLeaderEpoch = r.int32()
	e.Bytes = r.varint()
}

func (e *Hop) readTiles(r *reader) {
	e.Next = e.From
	var dest int64
	for n := r.count(2); n > 0 && r.bad == ""; n-- {
		tag := r.byte()
		count := int64(r.uvarint())
		if count <= 0 || e.Next > math.MaxInt64-count {
			r.fail("run or gap of %d offsets", count)
			return
		}
		if tag == tagRun || tag == tagAltered && e.Fold != nil {
			run := Run{Source: e.Next, Count: count, Destination: dest + r.varint()}
			switch {
			case e.Fold == nil:
				run.Path, run.Digest = Path(r.byte()), r.uint32()
			case tag == tagAltered:
				run.Path = Altered
			}
			if run.Destination < dest || run.Destination > math.MaxInt64-count {
				r.fail("destination offset %d after %d", run.Destination, dest)
				return
			}
			dest = run.Destination + count
			e.Runs = append(e.Runs, run)
		} else {
			e.Gaps = append(e.Gaps, Gap{Source: e.Next, Count: count, Reason: Reason(tag)})
		}
		e.Next += count
	}
	e.readRoutes(r)
}

func (e *Retraction) append(b []byte) []byte {
	b = append(b, e.Copy[:]...)
	b = binary.AppendUvarint(b, e.Epoch)
	b = binary.AppendVarint(b, e.Source)
	b = binary.AppendVarint(b, e.Destination)
	return append(appendTime(b, e.At), byte(e.Lost))
}

func (e *Retraction) read(r *reader) {
	copy(e.Copy[:], r.take(len(e.Copy)))
	e.Epoch = r.uvarint()
	e.Source = r.offset()
	e.Destination = r.offset()
	e.At = r.time()
	if len(r.buf) > 0 { // it came later
		e.Lost = LostSide(r.byte())
	}
}

func (e *Writer) append(b []byte) []byte {
	b = appendStrings(b, e.Cluster)
	b = binary.AppendVarint(b, e.ProducerID)
	b = binary.AppendVarint(b, int64(e.ProducerEpoch))
	b = appendStrings(b, e.Lane, e.Fleet, e.Node)
	return appendTime(b, e.At)
}

func (e *Writer) read(r *reader) {
	r.strings(&e.Cluster)
	e.ProducerID = r.varint()
	e.ProducerEpoch = r.int16()
	r.strings(&e.Lane, &e.Fleet, &e.Node)
	e.At = r.time()
}

func (e *Production) append(b []byte) []byte {
	b = e.Client.append(e.Place.append(b))
	b = binary.AppendVarint(b, e.Records)
	b = binary.AppendVarint(b, e.ProducerID)
	return e.Place.appendParts(appendTime(appendTime(b, e.FirstAt), e.At))
}

func (e *Production) read(r *reader) {
	e.Place.read(r)
	e.Client.read(r)
	e.Records = r.varint()
	e.ProducerID = r.varint()
	e.FirstAt = r.time()
	e.At = r.time()
	e.Place.readParts(r)
}

func (e *Access) append(b []byte) []byte {
	b = e.Client.append(e.Place.append(b))
	b = appendStrings(append(b, byte(e.Kind)), e.Group)
	return e.Place.appendParts(appendTime(appendTime(b, e.FirstAt), e.At))
}

func (e *Access) read(r *reader) {
	e.Place.read(r)
	e.Client.read(r)
	e.Kind = AccessKind(r.byte())
	r.strings(&e.Group)
	e.FirstAt = r.time()
	e.At = r.time()
	e.Place.readParts(r)
}

func (e *Rules) append(b []byte) []byte {
	b = append(b, e.Copy[:]...)
	b = binary.AppendUvarint(b, e.Epoch)
	b = binary.AppendVarint(b, e.From)
	return appendTime(appendStrings(b, e.Text), e.At)
}

func (e *Rules) read(r *reader) {
	copy(e.Copy[:], r.take(len(e.Copy)))
	e.Epoch = r.uvarint()
	e.From = r.offset()
	r.strings(&e.Text)
	e.At = r.time()
}

func (e *Quarantine) append(b []byte) []byte {
	b = append(b, e.Copy[:]...)
	b = binary.AppendUvarint(b, e.Epoch)
	b = binary.AppendVarint(binary.AppendVarint(b, e.From), e.Next-e.From)
	b = append(b, e.TopicID[:]...)
	b = binary.AppendVarint(appendStrings(b, e.Topic), int64(e.Partition))
	b = binary.AppendVarint(binary.AppendVarint(b, e.Offset), e.Records)
	return appendTime(appendStrings(b, e.Why), e.At)
}

func (e *Quarantine) read(r *reader) {
	copy(e.Copy[:], r.take(len(e.Copy)))
	e.Epoch = r.uvarint()
	e.From = r.offset()
	count := r.varint()
	if count < 0 || e.From > math.MaxInt64-count {
		r.fail("quarantine of %d offsets", count)
		return
	}
	e.Next = e.From + count
	copy(e.TopicID[:], r.take(len(e.TopicID)))
	r.strings(&e.Topic)
	e.Partition = r.int32()
	e.Offset = r.offset()
	e.Records = r.varint()
	r.strings(&e.Why)
	e.At = r.time()
}

func (c *Client) append(b []byte) []byte {
	return appendStrings(b, c.Principal, c.ClientID, c.Software, c.Address)
}

func (c *Client) read(r *reader) {
	r.strings(&c.Principal, &c.ClientID, &c.Software, &c.Address)
}

func appendEnd(b []byte, e End) []byte {
	b = appendStrings(b, e.Cluster)
	b = append(b, e.TopicID[:]...)
	return binary.AppendVarint(b, int64(e.Partition))
}

func appendStrings(b []byte, ss ...string) []byte {
	for _, s := range ss {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// Times are milliseconds since 1970; the zero time is 0.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

// reader consumes one page; after the first fault bad says what is wrong and
// everything reads as zero.
type reader struct {
	buf []byte
	bad string
}

func (r *reader) fail(format string, args ...any) {
	if r.bad == "" {
		r.bad = fmt.Sprintf(format, args...)
	}
	r.buf = nil
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.buf) {
		r.fail("ends %d bytes early", n-len(r.buf))
		return nil
	}
	out := r.buf[:n]
	r.buf = r.buf[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		r.fail("number is not readable")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.fail("number is not readable")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) offset() int64 {
	v := r.varint()
	if v < 0 || v == math.MaxInt64 {
		r.fail("%d is no offset", v)
		return 0
	}
	return v
}

func (r *reader) int32() int32 {
	v := r.varint()
	if v < math.MinInt32 || v > math.MaxInt32 {
		r.fail("%d does not fit 32 bits", v)
		return 0
	}
	return int32(v)
}

func (r *reader) int16() int16 {
	v := r.varint()
	if v < math.MinInt16 || v > math.MaxInt16 {
		r.fail("%d does not fit 16 bits", v)
		return 0
	}
	return int16(v)
}

// count reads a number of elements of at least size bytes each, so that a short
// page cannot make a reader expect many.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.buf)/size) {
		r.fail("%d elements in %d bytes", n, len(r.buf))
		return 0
	}
	return int(n)
}

func (r *reader) end() End {
	var e End
	r.strings(&e.Cluster)
	copy(e.TopicID[:], r.take(len(e.TopicID)))
	e.Partition = r.int32()
	return e
}

func (r *reader) strings(dst ...*string) {
	for _, s := range dst {
		*s = string(r.take(r.count(1)))
	}
}

func (r *reader) time() time.Time {
	ms := r.varint()
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
