package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// told is a ledger as a test tells it.
type told struct {
	replicators map[int64]bool
	plain       bool // they write without transactions
	strayBelow  int64
	hops        []toldHop // of partition 0
}

type toldHop struct {
	from, next int64
	route      string // names, the last is where it was copied from
	untraced   bool
}

func life(name string) ledger.Life {
	return ledger.Life{Cluster: name, TopicID: ledger.TopicID{name[0]}}
}

func (l *told) Replicator(cluster string, producerID int64) (known, plain bool) {
	return cluster == "source" && l.replicators[producerID], l.plain
}

func (l *told) Origin(at ledger.End, offset int64) (ledger.Origin, bool) {
	for _, h := range l.hops {
		if at.Life() == life("source") && h.from <= offset && offset < h.next {
			o := ledger.Origin{Next: h.next, Untraced: h.untraced}
			for _, name := range h.route {
				o.Route = append(o.Route, life(string(name)))
			}
			return o, true
		}
	}
	return ledger.Origin{}, false
}

func (l *told) Stray(_ ledger.End, offset int64) bool { return offset < l.strayBelow }

func (l *told) ReadLedger(context.Context, string) (bool, error) { return true, nil }

func (l *told) about(localOnly bool) *provenance {
	id := ledger.CopyID{Source: ledger.End{Cluster: "source", TopicID: life("source").TopicID}, Destination: ledger.End{Cluster: "d", TopicID: life("d").TopicID}}
	return newProvenance(l, id, localOnly, newLocals())
}

func TestRule(t *testing.T) {
	l := &told{replicators: map[int64]bool{7: true}, hops: []toldHop{
		{0, 10, "a", false},
		{10, 20, "d", false},
		{20, 30, "dab", false}, // passed the destination long ago
		{30, 40, "b", true},
		{40, 50, "d", true},
		{50, 60, "ab", false},
	}}
	for name, c := range map[string]struct {
		localOnly bool
		mirror    mirrorPart
		read      bool // the ledger was read to its end since
		q         question
		want      string
	}{
		"no producer":                              {q: question{0, -1, false, true}, want: "local"},
		"a producer nobody has looked for":         {q: question{0, 5, false, true}, want: "?"},
		"a producer that is not registered":        {read: true, q: question{0, 5, false, true}, want: "local"},
		"one that is, and its hop":                 {q: question{3, 7, true, true}, want: "copy by a to 10"},
		"from the destination":                     {q: question{10, 7, true, true}, want: "returned to 20"},
		"through the destination":                  {q: question{29, 7, true, true}, want: "returned to 30"},
		"over two others":                          {q: question{50, 7, true, true}, want: "copy by ab to 60"},
		"without a hop":                            {q: question{60, 7, true, true}, want: "?"},
		"without a hop, and the ledger is read":    {read: true, q: question{60, 7, true, true}, want: "?"},
		"a lane's producer id, but no transaction": {q: question{60, 7, false, true}, want: "local"},
		"of a version without routes":              {read: true, q: question{30, 7, true, true}, want: "?"},
		"the same, from the destination":           {q: question{40, 7, true, true}, want: "returned to 50"},
		"local only, local":                        {localOnly: true, read: true, q: question{0, 5, false, true}, want: "local"},
		"local only, a copy":                       {localOnly: true, q: question{3, 7, true, true}, want: "not-local to 10"},
		"local only, without a route":              {localOnly: true, q: question{30, 7, true, true}, want: "not-local to 40"},
		"local only, from the destination":         {localOnly: true, q: question{10, 7, true, true}, want: "returned to 20"},
		"mirror, its producer says nothing":        {mirror: mirrorPart{life("m"), 70, true}, q: question{3, 5, false, true}, want: "copy by a to 10"},
		"mirror, no producer at all":               {mirror: mirrorPart{life("m"), 70, true}, q: question{3, -1, false, true}, want: "copy by a to 10"},
		"mirror, no hop yet":                       {mirror: mirrorPart{life("m"), 70, true}, read: true, q: question{60, 5, false, true}, want: "?"},
		"mirror of the destination, no hop yet":    {mirror: mirrorPart{life("d"), 70, true}, q: question{60, 5, false, true}, want: "returned to 70"},
		"mirror, local only":                       {mirror: mirrorPart{life("m"), 70, true}, localOnly: true, q: question{60, 5, false, true}, want: "not-local to 70"},
		"mirror, what follows":                     {mirror: mirrorPart{life("d"), 70, true}, read: true, q: question{70, 5, false, true}, want: "?"},
		"mirror, what follows without a producer":  {mirror: mirrorPart{life("d"), 70, true}, read: true, q: question{70, -1, false, true}, want: "?"},
		"promoted, below":                          {mirror: mirrorPart{life("d"), 55, false}, q: question{54, 5, false, true}, want: "returned to 55"},
		"promoted in mid-hop":                      {mirror: mirrorPart{life("m"), 55, false}, q: question{51, 5, false, true}, want: "copy by ab to 55"},
		"promoted, above":                          {mirror: mirrorPart{life("d"), 55, false}, read: true, q: question{55, 5, false, true}, want: "local"},
		"promoted, above, a replicator's":          {mirror: mirrorPart{life("m"), 50, false}, q: question{50, 7, true, true}, want: "copy by ab to 60"},
	} {
		t.Run(name, func(t *testing.T) {
			p := l.about(c.localOnly)
			p.setMirror(c.mirror)
			if c.read {
				p.learn(c.q)
			}
			for range 2 { // the second answer is from memory
				r, ok := p.rule(c.q)
				if got := ruled(r, ok); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
				if !ok && p.why(c.q) == nil {
					t.Error("no answer, and no reason")
				}
			}
		})
	}
}

func ruled(r ruling, ok bool) string {
	to := fmt.Sprintf(" to %d", r.next)
	if r.next == math.MaxInt64 {
		to = " to end"
	}
	switch {
	case !ok:
		return "?"
	case r.skip != 0:
		return r.skip.String() + to
	case len(r.route) == 0:
		return "local"
	}
	by := ""
	for _, l := range r.route {
		by += l.Cluster
	}
	return "copy by " + by + to
}

// TestProducersThatAreRememberedAreBounded asks for more than there is room for:
// those that are asked for again and again stay.
func TestProducersThatAreRememberedAreBounded(t *testing.T) {
	l := newLocals()
	at := ledger.End{TopicID: ledger.TopicID{1}}
	l.add(at, 0)
	for id := range int64(5 * maxLocals) {
		l.add(at, id+1)
		if id%1000 == 0 && !l.has(at, 0) {
			t.Fatalf("forgotten after %d others", id)
		}
	}
	if n := len(l.young) + len(l.old); n > 2*maxLocals {
		t.Errorf("%d are remembered", n)
	}
	if l.has(at, 1) {
		t.Error("one that nobody asked for is remembered for ever")
	}
	if other := (ledger.End{TopicID: ledger.TopicID{1}, Partition: 1}); l.has(other, 0) {
		t.Error("a producer of another partition is taken for it")
	}
}

// TestStageOfMixedBatches stages what a source with copies from elsewhere has: what
// came from the destination is left out, what is not known ends it, and a batch of
// two origins is taken apart.
func TestStageOfMixedBatches(t *testing.T) {
	l := &told{replicators: map[int64]bool{7: true}, hops: []toldHop{{0, 4, "a", false}, {4, 6, "d", false}, {6, 9, "ab", false}}}
	by := func(base int64, n int, producer int64) record.Batch {
		return dense(base, n, record.Stamp{ProducerID: producer, Attributes: record.Attributes(0).WithTransactional(producer == 7)})
	}
	p := l.about(false)
	p.learn(question{0, 5, false, true})
	lim := roomy
	lim.origin = p
	data := slices.Concat(by(0, 2, 7), by(2, 6, 7), by(8, 1, 7), by(9, 1, 5), by(10, 1, 7), by(11, 1, 5))
	chunks, next, err := stageBatches(fetched{0, data, nil}, lim)
	open, ok := errors.AsType[*openQuestion](err)
	if !ok || open.offset != 10 || next != 10 {
		t.Fatalf("stopped at %d with %v", next, err)
	}
	got := ""
	for _, c := range chunks {
		got += fmt.Sprintf("%d-%d %v %d records", c.from, c.next, c.path, c.records())
		for _, l := range c.route {
			got += " " + l.Cluster
		}
		for _, g := range c.gaps {
			got += " " + g.Reason.String()
		}
		got += "; "
	}
	const want = "0-2 1 2 records a; 2-4 2 2 records a; 4-6 0 0 records returned; 6-8 2 2 records a b; 8-9 1 1 records a b; 9-10 1 1 records; "
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	// Put together is what is of one route only, and the hop says which.
	var put []placed
	for _, c := range coalesce(chunks, lim) {
		put = append(put, placed{chunk: c, base: c.from})
	}
	hop := hopsOf(ledger.Hop{}, put)[0]
	routes := ""
	for _, r := range hop.Runs {
		routes += fmt.Sprintf("%d-%d:", r.Source, r.Source+r.Count)
		for _, l := range hop.RouteOf(r) {
			routes += l.Cluster
		}
		routes += " "
	}
	if err := hop.Check(); err != nil || routes != "0-2:a 2-4:a 6-8:ab 8-9:ab 9-10: " {
		t.Errorf("got %s, %v", routes, err)
	}
}
