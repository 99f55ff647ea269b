package fold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

var errDied = errors.New("died")

// world is a ledger partition, and a copy that may go on while it is folded.
type world struct {
	t       *testing.T
	all     [][]byte // also what was deleted
	start   int64
	chain   *ledger.Chain
	copied  int64
	writers byte
	now     time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: noon, chain: ledger.NewChain(ledger.WriterID{1})}
	w.all = append(w.all, w.chain.Encode([]ledger.Entry{&ledger.Begin{Copy: copyID, Epoch: 1, Lane: "lane"}}))
	for range 5 {
		w.goOn()
	}
	return w
}

func (w *world) goOn() {
	x := w.copied
	w.copied += 10
	w.all = append(w.all, w.chain.Encode([]ledger.Entry{&ledger.Hop{
		Copy: copyID.Key(), Epoch: 1, From: x, Next: x + 10, At: noon, Runs: []ledger.Run{{Source: x, Count: 10, Destination: x * 2, Path: ledger.Raw}},
	}}))
}

// fold folds the world; before is called before each step of it, and after behind it.
func (w *world) fold(before, after func(step int) error) (done Weight, deleted bool, err error) {
	return Write(w.t.Context(), &steps{world: w, before: before, after: after}, w.order())
}

func (w *world) order() Order {
	w.writers++
	return Order{Cluster: "b", By: Author{Writer: ledger.WriterID{9, w.writers}}, At: w.now}
}

// check holds what a reader finds now against all that was ever written.
func (w *world) check(what string) {
	w.t.Helper()
	r, err := read(w.t.Context(), &steps{world: w}, Order{Cluster: "b"}, w.start, int64(len(w.all)))
	if err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
	whole := New("b")
	for i, p := range w.all {
		if err := whole.Record(int64(i), p); err != nil {
			w.t.Fatalf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(said(r.folder), said(whole)) {
		w.t.Errorf("%s: the ledger from offset %d on says something else than all of it", what, w.start)
	}
}

func said(f *Folder) (b []byte) {
	for e := range f.Entries() {
		b = ledger.AppendEntry(b, e)
	}
	return b
}

// steps is a world as one who folds sees it.
type steps struct {
	*world
	before, after func(step int) error
	taken         int
}

func (s *steps) step(do func() error) error {
	n := s.taken
	s.taken++
	if s.before != nil {
		if err := s.before(n); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if s.after != nil {
		return s.after(n)
	}
	return nil
}

func (s *steps) Extent(context.Context) (start, stable int64, err error) {
	err = s.step(func() error { start, stable = s.start, int64(len(s.all)); return nil })
	return start, stable, err
}

func (s *steps) Read(_ context.Context, from, to int64, each func(ledger.Stored) error) error {
	return s.step(func() error {
		if from < s.start {
			return fmt.Errorf("offset %d, the log begins at %d", from, s.start)
		}
		for i := from; i < to; i++ {
			if err := each(ledger.Stored{Offset: i, Value: s.all[i]}); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *steps) Append(_ context.Context, page []byte) error {
	return s.step(func() error { s.all = append(s.all, page); return nil })
}

func (s *steps) Delete(_ context.Context, below int64) error {
	return s.step(func() error { s.start = max(s.start, below); return nil })
}

// allSteps is how many steps a fold in one page takes: the extent, a reading, the page, the
// extent, the fold, a reading again, and the deletion.
const allSteps = 7

func at(step int, do func() error) func(int) error {
	return func(n int) error {
		if n == step {
			return do()
		}
		return nil
	}
}

// TestWriteDies: whoever folds may die at every step, before it is done or behind it, and
// no reader misses anything; the next one gets through.
func TestWriteDies(t *testing.T) {
	for step := range allSteps {
		for _, behind := range []bool{false, true} {
			name := fmt.Sprintf("step %d, done %v", step, behind)
			w := newWorld(t)
			before, after := at(step, func() error { return errDied }), at(-1, nil)
			if behind {
				before, after = after, before
			}
			if _, _, err := w.fold(before, after); !errors.Is(err, errDied) {
				t.Fatalf("%s: %v", name, err)
			}
			if gone := w.start > 0; gone != (step == allSteps-1 && behind) {
				t.Errorf("%s: the log begins at %d", name, w.start)
			}
			w.check(name)
			w.goOn()
			if done, deleted, err := w.fold(nil, nil); err != nil || !deleted || w.start != done.Below {
				t.Errorf("%s: again: %+v, %v", name, done, err)
			}
			w.check(name + ", again")
		}
	}
}

// TestWriteWhileOthersDo: a copy goes on, or another fold is written and deletes, before
// each step of a fold.
func TestWriteWhileOthersDo(t *testing.T) {
	for step := range allSteps {
		w := newWorld(t)
		if done, deleted, err := w.fold(func(int) error { w.goOn(); return nil }, nil); err != nil || !deleted {
			t.Errorf("a copy goes on: %+v, %v", done, err)
		}
		w.check("a copy goes on")
		w.goOn()
		_, _, err := w.fold(at(step, func() error {
			w.goOn()
			_, _, err := w.fold(nil, nil)
			return err
		}), nil)
		w.check(fmt.Sprintf("another fold before step %d: %v", step, err))
		w.goOn()
		if done, deleted, err := w.fold(nil, nil); err != nil || !deleted {
			t.Errorf("another fold before step %d, then: %+v, %v", step, done, err)
		}
		w.check("then")
	}
}

// TestWriteOnlyWhatIsNew: weighing writes nothing and says what is then written, and a fold
// with nothing behind it is not folded again.
func TestWriteOnlyWhatIsNew(t *testing.T) {
	w := newWorld(t)
	weight, err := Weigh(t.Context(), &steps{world: w}, w.order())
	if err != nil || weight.Start != 0 || weight.Below != 6 || weight.Pages != 6 || weight.FoldPages != 1 || len(w.all) != 6 {
		t.Errorf("got %+v, %v, %d pages", weight, err, len(w.all))
	}
	done, deleted, err := w.fold(nil, nil)
	if err != nil || !deleted || done != weight || w.start != 6 || int64(len(w.all[6])) != done.FoldBytes {
		t.Errorf("got %+v, %v, the log begins at %d", done, err, w.start)
	}
	if done, deleted, err := w.fold(nil, nil); err != nil || deleted || done.FoldPages != 0 || done.Below != done.Start || len(w.all) != 7 {
		t.Errorf("got %+v, %v", done, err)
	}
	w.check("at last")
}

// TestWriteProvesBeforeItDeletes: a fold that is not as it was written, or pages that are
// not as they were read, and nothing is deleted.
func TestWriteProvesBeforeItDeletes(t *testing.T) {
	w := newWorld(t)
	if _, _, err := w.fold(at(4, func() error {
		w.all[len(w.all)-1] = bytes.Clone(w.all[0])
		return nil
	}), nil); !errors.Is(err, ErrNotProved) || w.start != 0 {
		t.Errorf("the fold is not there: %v", err)
	}
	w = newWorld(t)
	if _, _, err := w.fold(at(5, func() error {
		w.all[3] = []byte("nobody's")
		return nil
	}), nil); err == nil || w.start != 0 {
		t.Errorf("a page is not there: %v", err)
	}
	w = newWorld(t)
	w.start = 2
	refused := (*RefusedError)(nil)
	if _, _, err := w.fold(nil, nil); !errors.As(err, &refused) || w.start != 2 {
		t.Errorf("pages are gone: %v", err)
	}
}

// deaf is a witness who finds fault with every fold, and counts what he was shown.
type deaf struct{ pages, folds int }

var errFault = errors.New("a record lies elsewhere")

func (d *deaf) Fold(int64, int64, *ledger.Page) { d.folds++ }
func (d *deaf) Page(int64, *ledger.Page)        { d.pages++ }
func (d *deaf) Same(*ledger.Opened) error       { return errFault }

// TestWriteAsksTheWitness: he sees everything that the fold stands for, and if he is not
// satisfied nothing is deleted.
func TestWriteAsksTheWitness(t *testing.T) {
	w := newWorld(t)
	for _, want := range []deaf{{pages: 6}, {pages: 1, folds: 1}} {
		d := &deaf{}
		o := w.order()
		o.Witness = d
		before := w.start
		if _, deleted, err := Write(t.Context(), &steps{world: w}, o); !errors.Is(err, errFault) || !errors.Is(err, ErrNotProved) || deleted || w.start != before || *d != want {
			t.Errorf("got %v, deleted %v, he has seen %+v", err, deleted, *d)
		}
		if _, _, err := w.fold(nil, nil); err != nil {
			t.Fatal(err)
		}
		w.goOn()
	}
}

// TestWriteGoesOnWithAFold: a fold that was written and not deleted for is used if nothing
// came behind it, and only then.
func TestWriteGoesOnWithAFold(t *testing.T) {
	w := newWorld(t)
	made, err := Make(t.Context(), &steps{world: w}, w.order())
	if err != nil || !made.Wrote || made.Below != 6 || made.Pages != 6 || w.start != 0 || len(w.all) != 7 {
		t.Fatalf("got %+v, %v, %d pages", made, err, len(w.all))
	}
	made.Wrote = false
	if again, err := Weigh(t.Context(), &steps{world: w}, w.order()); err != nil || again != made {
		t.Errorf("weighed again: got %+v, %v, want %+v", again, err, made)
	}
	w.goOn()
	if again, err := Weigh(t.Context(), &steps{world: w}, w.order()); err != nil || !again.Wrote || again.Below != 8 {
		t.Errorf("weighed when a copy has gone on: got %+v, %v", again, err)
	}
	w = newWorld(t)
	if _, err := Make(t.Context(), &steps{world: w}, w.order()); err != nil {
		t.Fatal(err)
	}
	if done, deleted, err := w.fold(nil, nil); err != nil || !deleted || done != made || w.start != 6 || len(w.all) != 7 {
		t.Errorf("got %+v, %v, %d pages", done, err, len(w.all))
	}
	w.check("at last")
}

// TestWriteOnlyWhatIsOld: what came in the last while stays as it was written, until a fold
// is old enough; each call makes one for later.
func TestWriteOnlyWhatIsOld(t *testing.T) {
	w := newWorld(t)
	for day, want := range []struct {
		start   int64
		deleted bool
	}{{0, false}, {0, false}, {6, true}, {8, true}} {
		o := w.order()
		o.Before = w.now.Add(-48 * time.Hour)
		weight, err := Weigh(t.Context(), &steps{world: w}, o)
		done, deleted, err2 := Write(t.Context(), &steps{world: w}, o)
		if err != nil || err2 != nil || done != weight || !done.Wrote || done.FoldPages != 1 || deleted != want.deleted || w.start != want.start {
			t.Errorf("day %d: got %+v, %v, weighed %+v, %v, the log begins at %d", day, done, err2, weight, err, w.start)
		}
		w.check(fmt.Sprint("day ", day))
		w.goOn()
		w.now = w.now.Add(24 * time.Hour)
	}
}

// TestWhatIsForLaterIsProvedToo: before it is old enough to delete for.
func TestWhatIsForLaterIsProvedToo(t *testing.T) {
	w := newWorld(t)
	for _, do := range []func(context.Context, Log, Order) (Weight, error){Weigh, Make} {
		d := &deaf{}
		o := w.order()
		o.Before, o.Witness = w.now.Add(-time.Hour), d
		if done, err := do(t.Context(), &steps{world: w}, o); !errors.Is(err, errFault) || !done.Wrote || d.pages != 6 {
			t.Errorf("got %+v, %v, he has seen %+v", done, err, d)
		}
	}
}

// TestWriteDoesNotTrustAFold: one that is there and says something else than the pages is
// not used, and one by another rule is not looked at.
func TestWriteDoesNotTrustAFold(t *testing.T) {
	for _, rule := range []uint64{Rule, Rule + 1} {
		w := newWorld(t)
		shorter := New("b")
		for i, p := range w.all[:3] {
			if err := shorter.Record(int64(i), p); err != nil {
				t.Fatal(err)
			}
		}
		var entries []ledger.Entry
		for e := range shorter.Entries() {
			entries = append(entries, e)
		}
		cut := &ledger.Cut{Next: int64(len(w.all)), Pages: uint64(len(w.all)), Rule: rule, At: noon}
		w.all = append(w.all, ledger.NewFoldChain(ledger.WriterID{8}).Encode(append(entries, cut)))
		done, deleted, err := w.fold(nil, nil)
		if rule == Rule && (!errors.Is(err, ErrNotProved) || deleted || w.start != 0) {
			t.Errorf("a false fold: got %+v, %v", done, err)
		}
		if rule != Rule && (err != nil || !deleted || !done.Wrote) {
			t.Errorf("a fold by another rule: got %+v, %v", done, err)
		}
		w.check("then")
	}
}
