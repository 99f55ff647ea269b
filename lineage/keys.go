package lineage

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// The store's keys. Numbers are big endian, so that keys sort as numbers do.
// Everything that came from a ledger begins with that ledger's number, so that
// it goes in one stroke when the ledger turns out to be another one.
//
//	0 'f'                               format u16
//	0 'l' cluster.id                    ledger: number u16, topic id
//	n 'o' partition u32                 offset to go on from
//	n 'c' copy key                      copyState
//	n 'b' copy key, epoch u64           Begin
//	n 'h' copy key, source u64          Hop by its first source offset
//	n 'y' copy key, destination u64     first source offset of the hop that begins there
//	n 'z' copy key, destination u64     Hop of the run that begins there, which the source has lost since
//	n 'p' topic id, partition, level, first u64, page   Production
//	n 'a' topic id, partition, level, first u64, page   Access
//	n 'g' topic id, partition, level, first u64, page   Progress
//	n 'r' topic id, kind (0: production), group, principal, client id   clientSum
//	n 'w' producer id u64               Writer
//	n 't' topic id                      topic's name, when it was last spoken of
//	n 's' copy key, epoch u64           Rules
//	n 'q' copy key, source u64          Quarantine by its first source offset
//	n 'u' copy key, source u64          hole: source offset u64 where it ends, why
//	n 'v' partition u32, writer         chainState
//	n 'x' partition u32, offset u64     what is damaged there
//
// A level is the binary logarithm of the number of offsets, rounded up: the runs
// of level v that hold offset x begin above x-2^v and at or below x.
type keyKind byte

const (
	kindFormat     keyKind = 'f'
	kindLedger     keyKind = 'l'
	kindNext       keyKind = 'o'
	kindCopy       keyKind = 'c'
	kindBegin      keyKind = 'b'
	kindHop        keyKind = 'h'
	kindByDest     keyKind = 'y'
	kindLost       keyKind = 'z'
	kindProduction keyKind = 'p'
	kindAccess     keyKind = 'a'
	kindProgress   keyKind = 'g'
	kindClient     keyKind = 'r'
	kindWriter     keyKind = 'w'
	kindTopic      keyKind = 't'
	kindRules      keyKind = 's'
	kindAside      keyKind = 'q'
	kindHole       keyKind = 'u'
	kindChain      keyKind = 'v'
	kindDamage     keyKind = 'x'
)

// storeFormat is raised with what a store of an earlier version cannot have. Such a
// store is emptied, and filled from the ledgers again.
const storeFormat = 6

// ledgerNo is a ledger's number in the store; 0 is the store's own.
type ledgerNo uint16

func key(n ledgerNo, k keyKind, parts ...[]byte) []byte {
	b := append(binary.BigEndian.AppendUint16(make([]byte, 0, 64), uint16(n)), byte(k))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func u32(v int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
func u64(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

// last64 is the number that a key ends in.
func last64(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[len(b)-8:])) }

// after is the first key that does not begin with prefix.
func after(prefix []byte) []byte {
	b := append([]byte(nil), prefix...)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return b[:i+1]
		}
	}
	return nil
}

var errStored = errors.New("stored value is not readable")

// copyState is how one copy stands, as far as its ledger was read.
type copyState struct {
	ledger     ledgerNo
	partition  int32 // of the ledger
	key        ledger.CopyKey
	begin      *ledger.Begin // the last; nil if none was seen
	began      bool
	nameless   bool // it has hops, and its begin is missing
	beginEpoch uint64

	epoch          uint64
	start, next    int64 // source offsets
	destNext       int64 // after the last record written, -1 if none
	records, bytes int64
	lastAt         int64 // milliseconds
	gaps           [16]int64

	// proved is the ledger offset of the last hop that begins where the copy stood, and
	// writer who wrote it: nothing that is missing below is in doubt any more, or it is
	// in what is shaky.
	proved int64
	writer ledger.WriterID
	// What was said of source offsets below shakySource may be otherwise because of
	// shakyWhy.
	shakySource int64
	shakyWhy    string
	startWhy    string // why it may have begun before start
	strayed     string // why it is not clear which of its entries count
}

func (c *copyState) encode() []byte {
	var b []byte
	began := int64(0)
	if c.began {
		began = 1
	}
	for _, v := range append([]int64{
		int64(c.partition), began, int64(c.beginEpoch), int64(c.epoch), c.start, c.next, c.destNext, c.records, c.bytes, c.lastAt,
		c.proved, c.shakySource,
	}, c.gaps[:]...) {
		b = binary.AppendVarint(b, v)
	}
	return appendStrings(append(b, c.writer[:]...), c.shakyWhy, c.startWhy, c.strayed)
}

func (c *copyState) decode(b []byte) error {
	var partition, began, beginEpoch, epoch int64
	fields := []*int64{
		&partition, &began, &beginEpoch, &epoch, &c.start, &c.next, &c.destNext, &c.records, &c.bytes, &c.lastAt,
		&c.proved, &c.shakySource,
	}
	for i := range c.gaps {
		fields = append(fields, &c.gaps[i])
	}
	for _, f := range fields {
		v, n := binary.Varint(b)
		if n <= 0 {
			return errStored
		}
		*f, b = v, b[n:]
	}
	c.partition, c.began, c.beginEpoch, c.epoch = int32(partition), began == 1, uint64(beginEpoch), uint64(epoch)
	if len(b) < len(c.writer) {
		return errStored
	}
	return readStrings(b[copy(c.writer[:], b):], &c.shakyWhy, &c.startWhy, &c.strayed)
}

// count adds what a hop holds, or takes it away with sign -1.
func (c *copyState) count(h *ledger.Hop, sign int64) {
	c.records += sign * h.Records()
	for _, g := range h.Gaps {
		c.gaps[min(int(g.Reason), len(c.gaps)-1)] += sign * g.Count
	}
}

func millis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// level is the binary logarithm of a number of offsets, rounded up.
func level(count int64) byte {
	var l byte
	for l < 62 && int64(1)<<l < count {
		l++
	}
	return l
}

// clientSum is what one client did to one topic altogether.
type clientSum struct {
	firstAt, lastAt, offsets int64
	software, address        string // the last
}

func (s *clientSum) encode() []byte {
	b := binary.AppendVarint(binary.AppendVarint(binary.AppendVarint(nil, s.firstAt), s.lastAt), s.offsets)
	return appendStrings(b, s.software, s.address)
}

func (s *clientSum) decode(b []byte) error {
	for _, f := range []*int64{&s.firstAt, &s.lastAt, &s.offsets} {
		v, n := binary.Varint(b)
		if n <= 0 {
			return errStored
		}
		*f, b = v, b[n:]
	}
	return readStrings(b, &s.software, &s.address)
}

func appendStrings(b []byte, ss ...string) []byte {
	for _, s := range ss {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

func readStrings(b []byte, ss ...*string) error {
	for _, s := range ss {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return errStored
		}
		*s, b = string(b[size:size+int(n)]), b[size+int(n):]
	}
	return nil
}
