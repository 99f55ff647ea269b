package main

import (
	"fmt"
	"strconv"

	"github.com/waybillhq/waybill/lineage"
)

// drawStored says what the record of an event says itself.
func drawStored(t *table, s *lineage.Stored) {
	if s.NotShown != "" {
		t.line("  record not shown: " + s.NotShown)
		return
	}
	if s.Batch != nil {
		t.line("  stored" + when(s.Time) + batchOf(s.Batch))
	}
	if s.Producer != nil {
		t.line("  " + stateOf(s.Producer))
	}
	if s.TransactionalID != "" {
		t.line("  transactional id " + strconv.Quote(s.TransactionalID))
	}
	for _, h := range s.Headers {
		t.line("  header " + headerOf(&h))
	}
	if s.More > 0 {
		t.line(fmt.Sprintf("  and %s, not listed", several(s.More, "more header")))
	}
	for _, u := range s.Unknown {
		t.line("  unknown: " + u)
	}
}

func batchOf(b *lineage.StoredBatch) string {
	text := fmt.Sprintf(" (%s) in a batch of offsets %d to %d, compression %s, leader epoch %d", b.TimestampType, b.First, b.Last, b.Compression, b.LeaderEpoch)
	if b.ProducerID < 0 {
		return text
	}
	text += fmt.Sprintf(", by producer id %d, epoch %d, from sequence %d on", b.ProducerID, b.ProducerEpoch, b.BaseSequence)
	if b.Transactional {
		text += ", in a transaction"
	}
	return text
}

func stateOf(p *lineage.ProducerState) string {
	text := fmt.Sprintf("that producer is known still (%s): epoch %d, coordinator epoch %d", p.Basis, p.ProducerEpoch, p.CoordinatorEpoch)
	if p.LastAt != nil {
		text += ", it last produced" + when(p.LastAt)
	}
	if p.OpenFrom != nil {
		text += fmt.Sprintf(", a transaction of its is open from offset %d on", *p.OpenFrom)
	}
	return text
}

// headerOf quotes what a producer may have written to upset a terminal.
func headerOf(h *lineage.StoredHeader) string {
	text := strconv.Quote(h.Key)
	switch {
	case h.Bytes < 0:
		text += " is null"
	case h.Value != nil:
		text += " = " + strconv.Quote(*h.Value)
	case h.ValueBytes != nil:
		text += fmt.Sprintf(" = %x in hex", h.ValueBytes)
	default:
		text += " of " + several(h.Bytes, "byte")
	}
	if h.Cut {
		text += ", cut off"
	}
	return text
}
