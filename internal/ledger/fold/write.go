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
	// Before, if not zero: only that may go for which a fold stands that was there by then.
	// So what came since stays as it was written.
	Before time.Time
	// Witness has read nothing yet; nil if there is none.
	Witness Witness
}

// Weight is what a fold stands for, and what it takes itself.
type Weight struct {
	// Below is up to where what begins at Start may go; they are equal if nothing may.
	Start, Below int64
	// Pages are those between.
	Pages int
	Bytes int64
	// FoldPages stand for them, or, if none may go, are kept for later.
	FoldPages int
	FoldBytes int64
	// Wrote says that a fold was written, or would be, because none was there that stands
	// for everything.
	Wrote bool
}

func (w *Weight) fold(o *ledger.Opened) {
	w.FoldPages, w.FoldBytes = len(o.Fold), 0
	for _, s := range o.Fold {
		w.FoldBytes += int64(len(s.Value))
	}
}

// ErrNotProved says that a fold does not tell what the pages do. Nothing was deleted.
var ErrNotProved = errors.New("the fold is not proved")

// Weigh reads a ledger partition, says what [Make] would do, and proves it. It writes
// nothing.
func Weigh(ctx context.Context, log Log, o Order) (Weight, error) {
	return prepare(ctx, log, o, func(r *reading) (*ledger.Opened, error) {
		opening := ledger.NewOpening(r.next)
		var opened *ledger.Opened
		at := r.next
		for page := range r.folder.Pages(o.By, o.At) {
			opened = opening.Take(ledger.Stored{Offset: at, At: o.At, Value: page})
			at++
		}
		if opened == nil {
			return nil, fmt.Errorf("%w: it has no end", ErrNotProved)
		}
		return opened, nil
	})
}

// Make folds all of a ledger partition and writes the fold behind it, unless one is there
// that stands for everything. From what then is there it proves that nothing is lost with
// what may go. It deletes nothing, and says what of it was done, also with an error. It may
// end at any point, and others may write meanwhile, or do the same.
func Make(ctx context.Context, log Log, o Order) (Weight, error) {
	return prepare(ctx, log, o, func(r *reading) (*ledger.Opened, error) {
		for page := range r.folder.Pages(o.By, o.At) {
			if err := log.Append(ctx, page); err != nil {
				return nil, fmt.Errorf("write the fold: %w", err)
			}
		}
		return readBack(ctx, log, o.By.Writer, r.next)
	})
}

// Write is [Make], and then it deletes what may go.
func Write(ctx context.Context, log Log, o Order) (done Weight, deleted bool, err error) {
	done, err = Make(ctx, log, o)
	if err != nil || done.Below == done.Start {
		return done, false, err
	}
	if err := log.Delete(ctx, done.Below); err != nil {
		return done, false, fmt.Errorf("delete what is folded: %w", err)
	}
	return done, true, nil
}

// prepare has a fold of what was read made, if one is needed, and proves the one that is to
// stand for what may go, or, if nothing may, the one that was made.
func prepare(ctx context.Context, log Log, o Order, anew func(*reading) (*ledger.Opened, error)) (Weight, error) {
	r, err := readAll(ctx, log, o)
	done := Weight{Start: r.start, Below: r.start}
	if err != nil {
		return done, err
	}
	var made *ledger.Opened
	if r.uncovered() {
		if made, err = anew(r); err != nil {
			return done, err
		}
		done.Wrote = true
		done.fold(made)
	}
	use := r.usable(made, o.Before)
	proves := use
	if use == nil {
		proves = made // it is for later
	}
	if proves == nil {
		return done, nil
	}
	again, err := read(ctx, log, o, r.start, proves.Cut.Next)
	if err != nil {
		return done, err
	}
	if err := prove(again, proves); err != nil || use == nil {
		return done, err
	}
	done.fold(use)
	done.Below, done.Pages, done.Bytes = use.Cut.Next, again.pages, again.bytes
	return done, nil
}

// prove holds a fold against what it stands for, folded again and shown to the witness.
func prove(again *reading, use *ledger.Opened) error {
	switch same, err := again.folder.Proves(DigestOf(use)); {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotProved, err)
	case !same:
		return fmt.Errorf("%w: it says something else than the pages", ErrNotProved)
	case again.witness == nil:
		return nil
	}
	if err := again.witness.Same(use); err != nil {
		return fmt.Errorf("%w: %w", ErrNotProved, err)
	}
	return nil
}

// readBack reads the fold of a writer, which stands for what is below next.
func readBack(ctx context.Context, log Log, writer ledger.WriterID, next int64) (*ledger.Opened, error) {
	_, stable, err := log.Extent(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the fold back: %w", err)
	}
	opening := ledger.NewOpening(next)
	var opened *ledger.Opened
	err = log.Read(ctx, next, stable, func(s ledger.Stored) error {
		if p, err := ledger.Decode(s.Value); opened == nil && err == nil && p.Writer == writer {
			opened = opening.Take(s)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the fold back: %w", err)
	}
	if opened == nil {
		return nil, fmt.Errorf("%w: it is not there", ErrNotProved)
	}
	return opened, nil
}

// reading is what was read of a ledger partition.
type reading struct {
	start, next int64
	folder      *Folder
	witness     Witness
	opening     *ledger.Opening // not nil until it is known what the partition begins with
	pages       int
	bytes       int64

	last   int64 // offset of the last page that is of no fold, -1 if there is none
	before time.Time
	open   map[ledger.WriterID]*ledger.Opening // folds of which not all was read
	// newest is the fold that stands for most, aged that of those that were there before a
	// time; nil if there is none.
	newest, aged *ledger.Opened
}

// readAll folds all of a ledger partition. No witness sees it: he is asked when it is known
// what is to be proved.
func readAll(ctx context.Context, log Log, o Order) (*reading, error) {
	start, stable, err := log.Extent(ctx)
	if err != nil {
		return &reading{}, fmt.Errorf("fold the ledger: %w", err)
	}
	o.Witness = nil
	return read(ctx, log, o, start, stable)
}

// read folds a ledger partition from its start up to an offset, before the witness if there
// is one.
func read(ctx context.Context, log Log, o Order, start, to int64) (*reading, error) {
	r := &reading{
		start: start, next: to, folder: New(o.Cluster), witness: o.Witness,
		last: -1, before: o.Before, open: map[ledger.WriterID]*ledger.Opening{},
	}
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
		r.folded(p.Writer, s)
		return nil // what it repeats was told
	}
	r.last = s.Offset
	if r.witness != nil && err == nil {
		r.witness.Page(s.Offset, p)
	}
	return nil
}

// folded takes a page of a fold.
func (r *reading) folded(by ledger.WriterID, s ledger.Stored) {
	if r.open[by] == nil {
		r.open[by] = ledger.NewOpening(r.start)
	}
	o := r.open[by].Take(s)
	if o == nil {
		return
	}
	delete(r.open, by)
	if o.Cut.Rule != Rule {
		return // whoever knows that rule may prove it
	}
	if r.newest == nil || o.Cut.Next > r.newest.Cut.Next {
		r.newest = o
	}
	// Both clocks must say so: that of the node, and the cluster's or the client's.
	if !o.Cut.At.After(r.before) && !s.At.After(r.before) && (r.aged == nil || o.Cut.Next > r.aged.Cut.Next) {
		r.aged = o
	}
}

// uncovered says that there is something for which no fold stands.
func (r *reading) uncovered() bool {
	return r.last >= r.start && (r.newest == nil || r.newest.Cut.Next <= r.last)
}

// usable is the fold with which what is below it may go, nil if there is none or nothing.
// made is the one that was made just now, if one was.
func (r *reading) usable(made *ledger.Opened, before time.Time) *ledger.Opened {
	use := r.newest
	if made != nil {
		use = made
	}
	if !before.IsZero() {
		use = r.aged
	}
	if use == nil || use.Cut.Next <= r.start {
		return nil
	}
	return use
}
