package broker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

const (
	foldBytes    = 1 << 20  // of the ledger that are read at once
	maxFoldBatch = 64 << 20 // of one batch, decompressed: pages have a quarter of a MiB
)

// foldedBelow says whether what the broker's own ledger has below an offset may go: if a
// fold follows that stands for it, as whoever reads from there on would find it. Who may
// write to the ledger could write one that says nothing; who folds proves it before, and what
// went has its checksum in the fold.
func foldedBelow(late <-chan struct{}, p *replica.Partition, offset int64) error {
	if offset >= 0 && offset <= p.StartOffset() {
		return nil // nothing goes
	}
	if offset < 0 {
		return fmt.Errorf("all of the ledger: %w", kerr.PolicyViolation)
	}
	covered := ledger.NewCovered(offset)
	end := p.HighWatermark()
	if offset > end {
		return kerr.OffsetOutOfRange
	}
	read := func(at int64) ([]byte, error) {
		if isClosed(late) {
			return nil, errLate
		}
		return p.Read(at, foldBytes, end)
	}
	for b, err := range record.Scan(offset, end, read) {
		switch {
		case errors.Is(err, record.ErrNothing):
		case err != nil:
			return err
		case coveredBy(covered, b, offset):
			return nil
		}
	}
	return fmt.Errorf("no fold stands for what the ledger has below offset %d: %w", offset, kerr.PolicyViolation)
}

// coveredBy shows the pages of a batch. Folds are written without transactions, which may
// be aborted. What cannot be read is no part of one.
func coveredBy(c *ledger.Covered, b record.Batch, from int64) bool {
	if b.Attributes().Control() || b.Attributes().Transactional() {
		return false
	}
	records, err := b.Decode(maxFoldBatch)
	if err != nil {
		return false
	}
	for _, r := range records {
		if r.Offset >= from && c.Take(r.Offset, r.Value) {
			return true
		}
	}
	return false
}
