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
	// Extent is the log start and the last stable offset, below which what was appended
	// lies: what is below it and committed stays so.
	Extent(ctx context.Context) (start, stable int64, err error)
	// Read gives the committed records from an offset up to another, in order, and fails
	// if they are not all there to be read.
	Read(ctx context.Context, from, to int64, each func(ledger.Stored) error) error
	// Append returns when the page is safely there.
	Append(ctx context.Context, page []byte) error
	// Delete deletes the records below an offset.
	Delete(ctx context.Context, below int64) error
}

// Witness reads pages as their readers do, and then says whether a fold tells them the
// same. It knows nothing of how folds come about.
type Witness interface {
	// Fold takes a page of the fold with which the partition begins, Page the next page.
	Fold(offset, next int64, p *ledger.Page)
	Page(offset int64, p *ledger.Page)
	// Same returns an error if a fold tells anything otherwise than what was read.
	Same(*ledger.Opened) error
}

// Order is what to do.
type Order struct {
	Cluster string // cluster.id
	By      Author // its Writer has written nothing yet
	At      time.Time
	// Witness has read nothing yet; nil if there is none.
	Witness Witness
}

// Weight is what can be folded, and what would stand for it.
type Weight struct {
	Start, Next int64 // of what can be; equal if there is nothing to fold
	Pages       int
	Bytes       int64
	FoldPages   int
	FoldBytes   int64
}

// Weigh reads a ledger partition and says what [Write] would do. It writes nothing.
func Weigh(ctx context.Context, log Log, o Order) (Weight, error) {
	r, err := readAll(ctx, log, o.Cluster)
	if err != nil || !r.news {
		return Weight{Start: r.start, Next: r.start}, err
	}
	w := Weight{Start: r.start, Next: r.next, Pages: r.pages, Bytes: r.bytes}
	for page := range r.folder.Pages(o.By, o.At) {
		w.FoldPages++
		w.FoldBytes += int64(len(page))
	}
	return w, nil
}

// ErrNotProved says that what was written is not what stands for the pages. Nothing was
// deleted.
var ErrNotProved = errors.New("the fold is not proved")

// Write folds all of a ledger partition, writes the fold behind it, proves from what then
// is there that nothing is lost with the pages, and only after that deletes them. It says
// what of it was done, also with an error. It may end at any point, and others may write
// meanwhile, or do the same.
func Write(ctx context.Context, log Log, o Order) (done Weight, deleted bool, err error) {
	r, err := readAll(ctx, log, o.Cluster)
	if err != nil || !r.news {
		return Weight{Start: r.start, Next: r.start}, false, err
	}
	done = Weight{Start: r.start, Next: r.next, Pages: r.pages, Bytes: r.bytes}
	for page := range r.folder.Pages(o.By, o.At) {
		if err := log.Append(ctx, page); err != nil {
			return done, false, fmt.Errorf("write the fold: %w", err)
		}
		done.FoldPages++
		done.FoldBytes += int64(len(page))
	}
	if err := prove(ctx, log, o, r.start, r.next); err != nil {
		return done, false, err
	}
	if err := log.Delete(ctx, r.next); err != nil {
		return done, false, fmt.Errorf("delete what is folded: %w", err)
	}
	return done, true, nil
}

// reading is what was read of a ledger partition.
type reading struct {
	start, next int64
	folder      *Folder
	witness     Witness
	opening     *ledger.Opening // not nil until it is known what the partition begins with
	news        bool            // there is something else than the fold with which it begins
	pages       int
	bytes       int64
}

// readAll folds all of a ledger partition.
func readAll(ctx context.Context, log Log, cluster string) (*reading, error) {
	start, stable, err := log.Extent(ctx)
	if err != nil {
		return &reading{}, fmt.Errorf("fold the ledger: %w", err)
	}
	return read(ctx, log, cluster, start, stable, nil)
}

// read folds a ledger partition from its start up to an offset, before a witness if there
// is one.
func read(ctx context.Context, log Log, cluster string, start, to int64, witness Witness) (*reading, error) {
	r := &reading{start: start, next: to, folder: New(cluster), witness: witness}
	if start > 0 {
		r.opening = ledger.NewOpening(start)
	}
	err := log.Read(ctx, start, to, r.take)
	switch {
	case err != nil:
		return r, fmt.Errorf("fold the ledger: %w", err)
	case r.opening != nil:
		return r, &RefusedError{start, "the pages below are gone, and nothing stands for them"}
	}
	r.folder.Passed(to)
	return r, nil
}

func (r *reading) take(s ledger.Stored) error {
	r.pages++
	r.bytes += int64(len(s.Value))
	if r.opening == nil {
		return r.record(s)
	}
	opened := r.opening.Take(s)
	if opened == nil {
		return nil
	}
	r.opening = nil
	if err := r.folder.Open(opened); err != nil {
		return err
	}
	if r.witness != nil {
		for at, p := range opened.Pages() {
			r.witness.Fold(at.Offset, opened.Cut.Next, p)
		}
	}
	r.news = opened.Cut.Next > r.start // what it stands for is there still
	for _, s := range opened.Rest {
		if err := r.record(s); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) record(s ledger.Stored) error {
	if err := r.folder.Record(s.Offset, s.Value); err != nil {
		return err
	}
	p, err := ledger.Decode(s.Value)
	if fold := err == nil && p.Fold; fold {
		return nil // what it repeats was told
	}
	r.news = true
	if r.witness != nil && err == nil {
		r.witness.Page(s.Offset, p)
	}
	return nil
}

// prove reads a fold back, and folds again what it stands for, before the witness.
func prove(ctx context.Context, log Log, o Order, start, next int64) error {
	again, err := read(ctx, log, o.Cluster, start, next, o.Witness)
	if err != nil {
		return err
	}
	_, stable, err := log.Extent(ctx)
	if err != nil {
		return fmt.Errorf("read the fold back: %w", err)
	}
	opening := ledger.NewOpening(next)
	var opened *ledger.Opened
	err = log.Read(ctx, next, stable, func(s ledger.Stored) error {
		if p, err := ledger.Decode(s.Value); opened == nil && err == nil && p.Writer == o.By.Writer {
			opened = opening.Take(s)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the fold back: %w", err)
	}
	if opened == nil {
		return fmt.Errorf("%w: it is not there", ErrNotProved)
	}
	switch same, err := again.folder.Proves(DigestOf(opened)); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotProved, err)
	case !same:
		return fmt.Errorf("%w: it says something else than the pages", ErrNotProved)
	case o.Witness == nil:
		return nil
	}
	if err := o.Witness.Same(opened); err != nil {
		return fmt.Errorf("%w: %w", ErrNotProved, err)
	}
	return nil
}
