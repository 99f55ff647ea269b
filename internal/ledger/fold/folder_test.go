package fold

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

var (
	copyID = ledger.CopyID{Source: ledger.End{Cluster: "a", TopicID: ledger.TopicID{1}}, Destination: ledger.End{Cluster: "b", TopicID: ledger.TopicID{2}}}
	noon   = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
)

func folded(t testing.TB, entries ...ledger.Entry) []ledger.Entry {
	t.Helper()
	f := New("b")
	chain := ledger.NewChain(ledger.WriterID{1})
	for i, e := range entries {
		if err := f.Record(int64(i), chain.Encode([]ledger.Entry{e})); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Collect(f.Entries())
}

// TestDeeds: what a client did on a day is one entry, whatever the order.
func TestDeeds(t *testing.T) {
	access := func(at time.Time, first, last int64, parts ...ledger.Stretch) *ledger.Access {
		return &ledger.Access{
			Place:  ledger.Place{TopicID: ledger.TopicID{3}, Topic: "orders", First: first, Last: last, Parts: parts},
			Client: ledger.Client{Principal: "User:app"}, Kind: ledger.Fetched, FirstAt: at, At: at,
		}
	}
	got := folded(t,
		access(noon, 20, 29), access(noon.Add(time.Hour), 10, 14), access(noon.Add(-time.Hour), 15, 19),
		access(noon, 40, 60, ledger.Stretch{First: 40, Last: 44}, ledger.Stretch{First: 50, Last: 60}), access(noon, 41, 48), access(noon.Add(24*time.Hour), 10, 11))
	one := access(noon, 10, 60, ledger.Stretch{First: 10, Last: 29}, ledger.Stretch{First: 40, Last: 48}, ledger.Stretch{First: 50, Last: 60})
	one.FirstAt, one.At = noon.Add(-time.Hour), noon.Add(time.Hour)
	if want := []ledger.Entry{one, access(noon.Add(24*time.Hour), 10, 11)}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestProgress: of the progress of a group stays what it has passed over on a day, and how;
// the last of it says where the group stands.
func TestProgress(t *testing.T) {
	progress := func(kind ledger.ProgressKind, at time.Time, first, last, next int64, parts ...ledger.Stretch) *ledger.Progress {
		return &ledger.Progress{
			Place: ledger.Place{TopicID: ledger.TopicID{3}, Topic: "orders", First: first, Last: last, Parts: parts},
			Kind:  kind, Group: "billing", Next: next, FirstAt: at.Add(-time.Second), At: at,
		}
	}
	got := folded(t,
		progress(ledger.Found, noon, 10, 10, 10), progress(ledger.Advanced, noon.Add(time.Minute), 10, 19, 20),
		progress(ledger.Reset, noon.Add(2*time.Minute), 5, 19, 5), progress(ledger.Advanced, noon.Add(3*time.Minute), 5, 6, 7),
		progress(ledger.Leapt, noon.Add(4*time.Minute), 7, 39, 40), progress(ledger.Advanced, noon.Add(4*time.Minute), 40, 44, 45))
	all := progress(ledger.Advanced, noon.Add(4*time.Minute), 5, 44, 45, ledger.Stretch{First: 5, Last: 6}, ledger.Stretch{First: 10, Last: 19}, ledger.Stretch{First: 40, Last: 44})
	all.FirstAt = noon.Add(59 * time.Second)
	want := []ledger.Entry{
		progress(ledger.Found, noon, 10, 10, 10), progress(ledger.Leapt, noon.Add(4*time.Minute), 7, 39, 40),
		progress(ledger.Reset, noon.Add(2*time.Minute), 5, 19, 5), all,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// unheard is an entry that a newer version may know, and the folder does not.
type unheard struct{ ledger.Entry }

// TestUnknownEntry: what the folder does not know how to keep it does not leave out.
func TestUnknownEntry(t *testing.T) {
	if err := New("b").entry(unheard{}); err == nil {
		t.Error("an entry was left out of the fold in silence")
	}
}

// TestRefused: a ledger that is damaged, or not understood, is not folded.
func TestRefused(t *testing.T) {
	begin := &ledger.Begin{Copy: copyID, Epoch: 1, Lane: "lane"}
	hop := func(epoch uint64, from, next int64) *ledger.Hop {
		return &ledger.Hop{Copy: copyID.Key(), Epoch: epoch, From: from, Next: next, Runs: []ledger.Run{{Source: from, Count: next - from, Destination: from}}}
	}
	elsewhere := copyID
	elsewhere.Destination.Cluster = "c"
	cases := []struct {
		name    string
		entries []ledger.Entry
		want    string
	}{
		{"a hop without a begin", []ledger.Entry{hop(1, 0, 5)}, "epoch 1 of a copy has no begin"},
		{"an epoch without a begin", []ledger.Entry{begin, hop(2, 0, 5)}, "epoch 2 of a copy has no begin"},
		{"hops that are missing", []ledger.Entry{begin, hop(1, 0, 5), hop(1, 7, 9)}, "begins at source offset 7, the copy stood at 5"},
		{"hops that contradict each other", []ledger.Entry{begin, hop(1, 0, 5), hop(1, 4, 9)}, "begins at source offset 4, the copy stood at 5"},
		{"an epoch that tells again of what was never told", []ledger.Entry{begin, &ledger.Begin{Copy: copyID, Epoch: 2, Resume: 3}}, "begins at source offset 3, it stood at 0"},
		{"an epoch in transactions that tells again", []ledger.Entry{begin, hop(1, 0, 5), &ledger.Begin{Copy: copyID, Epoch: 2, Resume: 3, Lane: "lane"}}, "begins at source offset 3, it stood at 5"},
		{"an epoch that begins elsewhere", []ledger.Entry{begin, &ledger.Begin{Copy: copyID, Epoch: 2, Resume: 3, Lane: "lane"}}, "begins at source offset 3, it stood at 0"},
		{"a page of another ledger", []ledger.Entry{&ledger.Begin{Copy: elsewhere}}, "another cluster"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := New("b")
			chain := ledger.NewChain(ledger.WriterID{1})
			var err error
			for i, e := range c.entries {
				err = f.Record(int64(i), chain.Encode([]ledger.Entry{e}))
			}
			refused, ok := errors.AsType[*RefusedError](err)
			if !ok || !strings.Contains(refused.Why, c.want) || refused.Offset != int64(len(c.entries)-1) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if err := f.Record(99, chain.Encode(nil)); !errors.Is(err, refused) {
				t.Errorf("it goes on: %v", err)
			}
		})
	}
	f := New("b")
	chain := ledger.NewChain(ledger.WriterID{1})
	chain.Encode(nil)
	if err := f.Record(0, []byte("nobody's")); err != nil {
		t.Errorf("a foreign record: %v", err)
	}
	if err := f.Record(1, chain.Encode(nil)); err == nil {
		t.Error("a page is missing, and it was folded")
	}
}

// TestToldAgain: what came too late for the next writer to read is void from where it
// begins, with what was put aside of it; its records lie at the destination still.
func TestToldAgain(t *testing.T) {
	hop := func(epoch uint64, from, next, to int64) *ledger.Hop {
		return &ledger.Hop{Copy: copyID.Key(), Epoch: epoch, From: from, Next: next, Runs: []ledger.Run{{Source: from, Count: next - from, Destination: to}}, At: noon}
	}
	aside := func(from, next int64) *ledger.Quarantine {
		return &ledger.Quarantine{Copy: copyID.Key(), Epoch: 1, From: from, Next: next}
	}
	var got []string
	for _, e := range folded(t,
		&ledger.Begin{Copy: copyID, Epoch: 1}, hop(1, 0, 10, 100), aside(4, 8), aside(8, 9),
		&ledger.Begin{Copy: copyID, Epoch: 2, Resume: 6}, hop(2, 6, 12, 106)) {
		switch e := e.(type) {
		case *ledger.Begin:
			got = append(got, fmt.Sprintf("epoch %d from %d", e.Epoch, e.Resume))
		case *ledger.Quarantine:
			got = append(got, fmt.Sprintf("aside %d to %d", e.From, e.Next))
		case *ledger.Hop:
			got = append(got, fmt.Sprintf("%d to %d at %d, void %v, restated %v", e.From, e.Next, e.Runs[0].Destination, e.Fold.Void, e.Fold.Restated))
		}
	}
	want := []string{"epoch 1 from 0", "aside 4 to 6", "0 to 6 at 100, void false, restated false", "6 to 10 at 106, void true, restated true", "epoch 2 from 6", "6 to 12 at 106, void false, restated false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestATamperedFoldIsNotProved alters one run of a fold, with all sums right.
func TestATamperedFoldIsNotProved(t *testing.T) {
	write := func(destination int64) *Folder {
		f := New("b")
		chain := ledger.NewChain(ledger.WriterID{1})
		for i, e := range []ledger.Entry{
			&ledger.Begin{Copy: copyID, Epoch: 1, Lane: "lane"},
			&ledger.Hop{Copy: copyID.Key(), Epoch: 1, Next: 5, Runs: []ledger.Run{{Count: 5, Destination: destination}}, At: noon},
		} {
			if err := f.Record(int64(i), chain.Encode([]ledger.Entry{e})); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	digest := func(f *Folder) Digest {
		opening := ledger.NewOpening(2)
		var opened *ledger.Opened
		at := int64(2)
		for b := range f.Pages(Author{Writer: ledger.WriterID{9}}, noon) {
			opened = opening.Take(ledger.Stored{Offset: at, Value: b})
			at++
		}
		return DigestOf(opened)
	}
	if ok, err := write(10).Proves(digest(write(10))); !ok || err != nil {
		t.Errorf("the fold itself is not proved: %v", err)
	}
	tampered := digest(write(11))
	tampered.Cut = digest(write(10)).Cut
	if ok, _ := write(10).Proves(tampered); ok {
		t.Error("a tampered fold is proved")
	}
}

// BenchmarkFold folds hops as a copy into plain Kafka writes them, ten transactions a
// second, each with a marker, and says what a hop takes before and after.
func BenchmarkFold(b *testing.B) {
	const hops = 100_000
	chain := ledger.NewChain(ledger.WriterID{1})
	pages := [][]byte{chain.Encode([]ledger.Entry{&ledger.Begin{Copy: copyID, Epoch: 1, Lane: "lane"}})}
	var before, after int
	for i := range int64(hops) {
		pages = append(pages, chain.Encode([]ledger.Entry{&ledger.Hop{
			Copy: copyID.Key(), Epoch: 1, From: 500 * i, Next: 500 * (i + 1), Bytes: 1 << 16, At: noon.Add(time.Duration(i) * 100 * time.Millisecond),
			Runs: []ledger.Run{{Source: 500 * i, Count: 500, Destination: 501 * i, Path: ledger.Raw, Digest: uint32(i)}},
		}}))
		before += len(pages[len(pages)-1])
	}
	for b.Loop() {
		f := New("b")
		for i, p := range pages {
			if err := f.Record(int64(i), p); err != nil {
				b.Fatal(err)
			}
		}
		after = 0
		for p := range f.Pages(Author{}, noon) {
			after += len(p)
		}
	}
	b.ReportMetric(float64(before)/hops, "B/hop-before")
	b.ReportMetric(float64(after)/hops, "B/hop-after")
}
