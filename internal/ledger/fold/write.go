package fold

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Log is one ledger partition.
type Log interface {
	// Extent is the log start and the last stable offset: what is below it and committed
	// stays so.
	Extent(ctx context.Context) (start, stable int64, err error)
	// Read gives the committed records from an offset up to another, in order, and fails
	// if they are not all there to be read.
	Read(ctx context.Context, from, to int64, each func(ledger.Stored) error) error
	// Append returns when the page is safely there.
	Append(ctx context.Context, page []byte) error
	// Delete deletes the records below an offset.
	Delete(ctx context.Context, below int64) error
}

// Order is what to do.
type Order struct {
	Cluster string // cluster.id
	By      Author // its Writer has written nothing yet
	At      time.Time
	Delete  bool // what the fold stands for
}

// Written is what was done.
type Written struct {
	Start, Next int64 // what is folded; equal if there was nothing to fold
	Pages       int   // of the fold
	Deleted     bool
}

// ErrNotProved says that what was written is not what stands for the pages. Nothing was
// deleted.
var ErrNotProved = errors.New("the fold is not proved")

// Write folds all of a ledger partition, writes the fold behind it, and proves from what
// then is there that nothing is lost with the pages; only after that it deletes them, if
// it is to. It may end at any point, and others may write meanwhile, or do the same.
func Write(ctx context.Context, log Log, o Order) (Written, error) {
	start, stable, err := log.Extent(ctx)
	if err != nil {
		return Written{}, fmt.Errorf("fold the ledger: %w", err)
	}
	f, news, err := read(ctx, log, o.Cluster, start, stable)
	if err != nil {
		return Written{}, err
	}
	if !news {
		return Written{Start: start, Next: start}, nil
	}
	done := Written{Start: start, Next: stable}
	for page := range f.Pages(o.By, o.At) {
		if err := log.Append(ctx, page); err != nil {
			return done, fmt.Errorf("write the fold: %w", err)
		}
		done.Pages++
	}
	if err := prove(ctx, log, o, start, stable); err != nil {
		return done, err
	}
	if !o.Delete {
		return done, nil
	}
	if err := log.Delete(ctx, stable); err != nil {
		return done, fmt.Errorf("delete what is folded: %w", err)
	}
	done.Deleted = true
	return done, nil
}

// read folds a ledger partition from its start up to an offset. It says whether there is
// anything else than the fold with which it begins.
func read(ctx context.Context, log Log, cluster string, start, to int64) (f *Folder, news bool, err error) {
	f = New(cluster)
	var opening *ledger.Opening
	if start > 0 {
		opening = ledger.NewOpening(start)
	}
	record := func(r ledger.Stored) error {
		if p, err := ledger.Decode(r.Value); err != nil || !p.Fold {
			news = true
		}
		return f.Record(r.Offset, r.Value)
	}
	err = log.Read(ctx, start, to, func(r ledger.Stored) error {
		if opening == nil {
			return record(r)
		}
		opened := opening.Take(r)
		if opened == nil {
			return nil
		}
		opening = nil
		if err := f.Open(opened); err != nil {
			return err
		}
		news = opened.Cut.Next > start // what it stands for is there still
		for _, r := range opened.Rest {
			if err := record(r); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("fold the ledger: %w", err)
	case opening != nil:
		return nil, false, &RefusedError{start, "the pages below are gone, and nothing stands for them"}
	}
	f.Passed(to)
	return f, news, nil
}

// prove reads a fold back and folds again what it stands for.
func prove(ctx context.Context, log Log, o Order, start, next int64) error {
	again, _, err := read(ctx, log, o.Cluster, start, next)
	if err != nil {
		return err
	}
	_, stable, err := log.Extent(ctx)
	if err != nil {
		return fmt.Errorf("read the fold back: %w", err)
	}
	opening := ledger.NewOpening(next)
	var opened *ledger.Opened
	err = log.Read(ctx, next, stable, func(r ledger.Stored) error {
		if p, err := ledger.Decode(r.Value); opened == nil && err == nil && p.Writer == o.By.Writer {
			opened = opening.Take(r)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the fold back: %w", err)
	}
	if opened == nil {
		return fmt.Errorf("%w: it is not there", ErrNotProved)
	}
	switch same, err := again.Proves(DigestOf(opened)); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotProved, err)
	case !same:
		return fmt.Errorf("%w: it says something else than the pages", ErrNotProved)
	}
	return nil
}
