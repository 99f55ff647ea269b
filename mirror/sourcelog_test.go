package mirror

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

const (
	attrLogAppendTime record.Attributes = 0x08
	attrTransactional record.Attributes = 0x10
	attrControl       record.Attributes = 0x20
	attrDeleteHorizon record.Attributes = 0x40
)

// holeyBatch encodes records at their own offsets, holes and all, as a broker's
// cleaner leaves them. The batch spans [base, last].
func holeyBatch(records []record.Record, base, last int64, s record.Stamp) record.Batch {
	var plain []byte
	bytesOf := func(b []byte, v []byte) []byte {
		if v == nil {
			return binary.AppendVarint(b, -1)
		}
		return append(binary.AppendVarint(b, int64(len(v))), v...)
	}
	baseTime, maxTime := int64(0), int64(0)
	for i, r := range records {
		if i == 0 {
			baseTime, maxTime = r.Timestamp, r.Timestamp
		}
		maxTime = max(maxTime, r.Timestamp)
		body := binary.AppendVarint([]byte{0}, r.Timestamp-baseTime)
		body = binary.AppendVarint(body, r.Offset-base)
		body = bytesOf(bytesOf(body, r.Key), r.Value)
		body = binary.AppendVarint(body, int64(len(r.Headers)))
		for _, h := range r.Headers {
			body = bytesOf(bytesOf(body, []byte(h.Key)), h.Value)
		}
		plain = append(binary.AppendVarint(plain, int64(len(body))), body...)
	}
	section := plain
	if len(records) > 0 {
		var err error
		if section, err = record.Compress(s.Attributes.Codec(), plain); err != nil {
			panic(err)
		}
	}
	b := make(record.Batch, record.HeaderSize, record.HeaderSize+len(section))
	b = append(b, section...)
	be := binary.BigEndian
	b.SetBaseOffset(base)
	be.PutUint32(b[8:], uint32(len(b)-12))
	b.SetLeaderEpoch(5)
	b[16] = 2
	be.PutUint16(b[21:], uint16(s.Attributes))
	be.PutUint32(b[23:], uint32(last-base))
	be.PutUint64(b[27:], uint64(baseTime))
	be.PutUint64(b[35:], uint64(maxTime))
	be.PutUint64(b[43:], uint64(s.ProducerID))
	be.PutUint16(b[51:], uint16(s.ProducerEpoch))
	be.PutUint32(b[53:], uint32(s.BaseSequence))
	be.PutUint32(b[57:], uint32(len(records)))
	be.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// fate is what the naive model says about one source offset: a record, or the
// reason for having no copy.
type fate struct {
	record *record.Record
	reason ledger.Reason
}

// sourceLog is a partition as a model: its bytes, what a read_committed fetch
// says is aborted, and the fate of each offset.
type sourceLog struct {
	batches []record.Batch
	aborted []abortedTxn
	fates   []fate
}

func (l *sourceLog) end() int64 { return int64(len(l.fates)) }

func (l *sourceLog) add(records []record.Record, last int64, s record.Stamp, why ledger.Reason) {
	base := l.end()
	l.batches = append(l.batches, holeyBatch(records, base, last, s))
	for o := base; o <= last; o++ {
		f := fate{reason: ledger.Compacted}
		if why != 0 {
			f.reason = why
		}
		l.fates = append(l.fates, f)
	}
	for i := range records {
		if why == 0 {
			r := records[i]
			if s.Attributes.LogAppendTime() {
				r.Timestamp = l.batches[len(l.batches)-1].MaxTimestamp()
			}
			l.fates[r.Offset] = fate{record: &r}
		}
	}
}

// hole leaves offsets out altogether, as a cleaner that drops whole batches.
func (l *sourceLog) hole(n int) {
	for range n {
		l.fates = append(l.fates, fate{reason: ledger.Compacted})
	}
}

func (l *sourceLog) marker(pid int64, commit bool) {
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	r := record.Record{Offset: l.end(), Timestamp: 1, Key: key, Value: make([]byte, 6)}
	l.add([]record.Record{r}, r.Offset, record.Stamp{ProducerID: pid, Attributes: attrControl | attrTransactional, BaseSequence: -1}, ledger.Control)
}

func (l *sourceLog) bytes() []byte {
	var out []byte
	for _, b := range l.batches {
		out = append(out, b...)
	}
	return out
}

// randomLog makes a log of about n batches with everything that a real one may
// hold: holes, emptied batches, interleaved transactions of both outcomes.
func randomLog(rng *rand.Rand, n int) *sourceLog {
	l := &sourceLog{}
	type txn struct {
		abort bool
	}
	open := map[int64]txn{}
	for range n {
		pid := rng.Int64N(4)
		switch t, isOpen := open[pid], false; rng.IntN(10) {
		case 0:
			l.hole(1 + rng.IntN(5))
		case 1: // emptied batch
			l.add(nil, l.end()+rng.Int64N(4), record.Stamp{ProducerID: pid}, 0)
		case 2, 3: // end a transaction
			if t, isOpen = open[pid]; isOpen {
				l.marker(pid, !t.abort)
				delete(open, pid)
			}
		case 4, 5, 6: // transactional
			if t, isOpen = open[pid]; !isOpen {
				t = txn{abort: rng.IntN(2) == 0}
				open[pid] = t
				if t.abort {
					l.aborted = append(l.aborted, abortedTxn{pid, l.end()})
				}
			}
			why := ledger.Reason(0)
			if t.abort {
				why = ledger.Aborted
			}
			l.randomBatch(rng, record.Stamp{ProducerID: pid, Attributes: attrTransactional}, why)
		default:
			l.randomBatch(rng, record.Stamp{ProducerID: 100 + pid}, 0)
		}
	}
	for pid, t := range open {
		l.marker(pid, !t.abort)
	}
	rng.Shuffle(len(l.aborted), func(i, j int) { l.aborted[i], l.aborted[j] = l.aborted[j], l.aborted[i] })
	return l
}

func (l *sourceLog) randomBatch(rng *rand.Rand, s record.Stamp, why ledger.Reason) {
	s.Attributes |= record.Attributes(rng.IntN(5))
	switch rng.IntN(6) {
	case 0:
		s.Attributes |= attrLogAppendTime
	case 1:
		s.Attributes |= attrDeleteHorizon
	}
	n := 1 + rng.IntN(6)
	base := l.end()
	holes := rng.IntN(3) == 0
	var records []record.Record
	for i := range int64(n) {
		if holes && len(records) > 0 && rng.IntN(2) == 0 {
			continue
		}
		records = append(records, record.Record{
			Offset: base + i, Timestamp: 1517443200000 + rng.Int64N(1000),
			Key: fmt.Appendf(nil, "k%d", rng.IntN(9)), Value: make([]byte, rng.IntN(200)),
			Headers: []record.Header{{Key: "h", Value: nil}},
		})
	}
	l.add(records, base+int64(n)-1, s, why)
}
