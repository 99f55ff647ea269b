package lineage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// toldOf draws events in a form that a test can state.
func toldOf(events []StreamEvent) []string {
	var lines []string
	place := func(s *Stretch) string {
		if s.Redacted {
			return "?"
		}
		return fmt.Sprintf("%s/%s/%d %d-%d", s.Cluster, s.Topic, s.Partition, s.First, s.Last)
	}
	for _, e := range events {
		line := e.Kind
		switch {
		case e.Kind == missed:
			line += " " + e.Why
		case e.Deed != nil:
			line += " " + place(e.Place) + " by " + strings.TrimPrefix(e.Deed.Principal, "User:")
		default:
			line += " " + place(e.Source) + " to " + place(e.Destination)
			if e.Flow != "" {
				line += fmt.Sprintf(" %s %d %v%s", e.Flow, e.Records, e.Gaps, e.Lost)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// stream opens one that must be open, and closes it with the test.
func (f *feeder) stream(t *testing.T, q StreamQuery) *Stream {
	t.Helper()
	s, err := f.x.Stream(t.Context(), alice, q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (s *Stream) expect(t *testing.T, want ...string) (mark string) {
	t.Helper()
	events, mark, err := s.Next(t.Context(), 0)
	if got := toldOf(events); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	return mark
}

func (f *feeder) deedsAndHops() {
	f.page('a', production('a', "User:shop", 0, 9))
	f.page('b', begin('a', 'b', 1), hop('a', 'b', 1, 0, 10, 100, ledger.Gap{Source: 10, Count: 2, Reason: ledger.Aborted}))
	f.page('b', access('b', "User:alice", "", 100, 109, t0), &ledger.Retraction{Copy: copyOf('a', 'b').Key(), Epoch: 1, Source: 6, Destination: 106, At: t0, Lost: ledger.LostAtSource})
	f.page('b', hop('a', 'b', 0, 0, 10, 100)) // void
}

func TestStream(t *testing.T) {
	const (
		shop  = "produced a/orders/0 0-9 by shop"
		hops  = "copied a/orders/0 0-11 to b/orders/0 100-109 a-to-b 10 map[aborted:2]"
		reads = "fetched b/orders/0 100-109 by alice"
		taken = "retracted a/orders/0 6-11 to b/orders/0 106-109 a-to-b 0 map[]source"
	)
	for _, c := range []struct {
		name   string
		query  StreamQuery
		rights rights
		want   []string
	}{
		{"a cluster", StreamQuery{Cluster: "b"}, nil, []string{hops, reads, taken}},
		{"the other", StreamQuery{Cluster: "a"}, nil, []string{shop, hops, taken}},
		{"a topic", StreamQuery{Cluster: "id-a", Topic: "orders"}, nil, []string{shop, hops, taken}},
		{"another topic", StreamQuery{Cluster: "a", Topic: "bills"}, nil, nil},
		{"one kind", StreamQuery{Cluster: "a", Kinds: []string{"produced"}}, nil, []string{shop}},
		{"who may not see the source", StreamQuery{Cluster: "b"}, rights{"id-b/orders": true}, []string{"copied ? to b/orders/0 100-109", reads, "retracted ? to b/orders/0 106-109"}},
		{"who may not see who produced", StreamQuery{Cluster: "a"}, rights{"id-a/orders": true}, []string{"produced a/orders/0 0-9 by ", "copied a/orders/0 0-11 to ?", "retracted a/orders/0 6-11 to ?"}},
		{"who may see nothing", StreamQuery{Cluster: "b"}, rights{}, nil},
		{"who may see only the other end", StreamQuery{Cluster: "b"}, rights{"id-a/orders": true}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Authorizer: rights(nil)}
			if c.rights != nil {
				cfg.Authorizer = c.rights
			}
			x, f := open(t, cfg)
			f.page('b', begin('a', 'b', 0))
			s := f.stream(t, c.query)
			s.expect(t)
			f.deedsAndHops()
			s.expect(t, c.want...)
			s.expect(t)
			_ = x
		})
	}
}

// TestStreamGoesOn: after an id come the events behind it, each once. What is not kept
// any more, and an id of another node, is said.
func TestStreamGoesOn(t *testing.T) {
	_, f := open(t, Config{})
	f.page('b', begin('a', 'b', 1))
	s := f.stream(t, StreamQuery{Cluster: "b"})
	for i := range int64(3) {
		f.page('b', hop('a', 'b', 1, i, 1, i))
	}
	events, mark, err := s.Next(t.Context(), 0)
	if err != nil || len(events) != 3 {
		t.Fatalf("got %v %v", events, err)
	}
	f.stream(t, StreamQuery{Cluster: "b", After: events[0].ID}).expect(t, toldOf(events)[1:]...)
	f.stream(t, StreamQuery{Cluster: "b", After: mark}).expect(t)
	gone := "missed the id is not of this node since it started: what came since then is not known"
	for _, id := range []string{"x", strings.Repeat("A", 22), "!", newFeed().id(1), f.x.feed.id(99)} {
		other := f.stream(t, StreamQuery{Cluster: "b", After: id})
		other.expect(t, gone)
		other.expect(t)
	}
	for i := range int64(feedSize) {
		f.page('b', production('b', "User:shop", i, i))
	}
	slow := "missed the reader was too slow, or away too long: what is not told is in the answers to queries"
	for _, late := range []*Stream{s, f.stream(t, StreamQuery{Cluster: "b", After: events[0].ID})} {
		var got []string
		for len(got) < feedSize {
			events, _, err := late.Next(t.Context(), 0)
			if err != nil || len(events) == 0 {
				t.Fatalf("got %v %v after %d", events, err, len(got))
			}
			got = append(got, toldOf(events)...)
			if late == s {
				break
			}
		}
		if late != s && (got[0] != slow || len(got) != feedSize+1 || got[1] != "produced b/orders/0 0-0 by shop") {
			t.Errorf("got %d events: %q ...", len(got), got[:2])
		}
		if late == s && got[0] == slow {
			t.Error("somebody who is just in time is said to be late")
		}
	}
}

func TestStreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, f := open(t, Config{})
		f.page('b', begin('a', 'b', 1))
		s := f.stream(t, StreamQuery{Cluster: "b"})
		before := time.Now()
		if events, mark, err := s.Next(t.Context(), time.Minute); err != nil || len(events) > 0 || mark == "" || time.Since(before) != time.Minute {
			t.Errorf("got %v, %q, %v after %v", events, mark, err, time.Since(before))
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() { _, _, err := s.Next(ctx, time.Hour); got <- err }()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v when the caller went", err)
		}
		go func() {
			events, _, err := s.Next(t.Context(), time.Hour)
			if len(events) != 1 {
				err = fmt.Errorf("%d events, %w", len(events), err)
			}
			got <- err
		}()
		synctest.Wait()
		f.page('b', hop('a', 'b', 1, 0, 1, 0))
		if err := <-got; err != nil {
			t.Errorf("got %v when something came", err)
		}
		go func() { _, _, err := s.Next(t.Context(), time.Hour); got <- err }()
		synctest.Wait()
		x.EndStreams()
		if err := <-got; !errors.Is(err, ErrEnded) {
			t.Errorf("got %v at the end", err)
		}
	})
}

func TestStreamErrors(t *testing.T) {
	may := rights{"id-b/orders": true}
	_, f := open(t, Config{Authorizer: may})
	f.page('b', begin('a', 'b', 1))
	for _, c := range []struct {
		query StreamQuery
		want  error
	}{
		{StreamQuery{}, ErrInvalid},
		{StreamQuery{Cluster: "b", Kinds: []string{"stolen"}}, ErrInvalid},
		{StreamQuery{Cluster: "mars"}, ErrNotFound},
		{StreamQuery{Cluster: "mars", Topic: "orders"}, ErrDenied},
		{StreamQuery{Cluster: "b", Topic: "bills"}, ErrDenied},
	} {
		if _, err := f.x.Stream(t.Context(), alice, c.query); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.query, err, c.want)
		}
	}
	s := f.stream(t, StreamQuery{Cluster: "b", Topic: "orders"})
	s.expect(t)
	delete(may, "id-b/orders")
	if _, _, err := s.Next(t.Context(), time.Hour); !errors.Is(err, ErrDenied) {
		t.Errorf("got %v after the right was taken away", err)
	}
	var last error
	for range maxStreams {
		if _, err := f.x.Stream(t.Context(), alice, StreamQuery{Cluster: "b"}); err != nil {
			last = err
		}
	}
	if !errors.Is(last, ErrBusy) {
		t.Errorf("got %v for one stream too many", last)
	}
}

// TestStreamIDsTellNothing: neither how much happened between two events nor that
// anything did.
func TestStreamIDsTellNothing(t *testing.T) {
	f := newFeed()
	a, b := f.id(1), f.id(2)
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	if len(a) != 22 || same > 11 {
		t.Errorf("%s and %s are alike", a, b)
	}
	if n, ok := f.number(b); !ok || n != 2 {
		t.Errorf("got %d %v", n, ok)
	}
}

func FuzzStreamID(f *testing.F) {
	one := newFeed()
	f.Add(one.id(7))
	f.Add("")
	f.Fuzz(func(t *testing.T, id string) {
		if n, ok := one.number(id); ok && one.id(n) != id {
			t.Errorf("%q: got %d, which is %q", id, n, one.id(n))
		}
	})
}
