package lineage

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

var (
	histories   = flag.Uint64("histories", 180, "random histories that TestAgainstModel plays")
	historySeed = flag.Uint64("history-seed", 1, "the first of them")
)

// TestAgainstModel asks an index for every offset of every partition of random
// histories: where it came from, where it went, and what was not copied, both ways.
//
//	go test ./lineage -run TestAgainstModel -histories 1 -history-seed N
func TestAgainstModel(t *testing.T) {
	var asked, edges int
	for seed := *historySeed; seed < *historySeed+*histories; seed++ {
		w := newModelWorld(seed)
		r := &modelReader{t: t, w: w, fs: vfs.NewCrashableMem(), ids: map[bookAt]ledger.TopicID{}}
		r.open()
		for range 2 {
			w.run(40)
			r.read()
			r.check()
		}
		if err := r.x.Close(); err != nil {
			t.Fatal(err)
		}
		asked, edges = asked+r.asked, edges+r.edges
	}
	t.Logf("%d offsets asked for, %d copies told", asked, edges)
	if asked == 0 || edges == 0 {
		t.Error("nothing was asked")
	}
}

// run plays a random history.
func (w *modelWorld) run(steps int) {
	for range steps {
		s, c := w.sites[w.rng.IntN(len(w.sites))], w.copies[w.rng.IntN(len(w.copies))]
		switch n := w.rng.IntN(60); {
		case n < 20:
			if !s.dead {
				w.produce(s)
			}
		case n < 46:
			w.copyOn(c)
		case n < 49:
			if !c.from.dead && !c.to.dead {
				w.begin(c)
			}
		case n < 53:
			w.compact(s)
		case n < 54:
			w.recreate(s.modelTopic)
		case n < 55:
			w.tellAgain(c)
		case s.cluster != w.tells: // whose ledger would tell of what was cut
			w.truncate(s)
		}
	}
	for _, b := range w.books {
		b.end()
	}
}

// modelReader feeds an index from the ledgers of a world, and asks it.
type modelReader struct {
	t            *testing.T
	w            *modelWorld
	fs           *vfs.MemFS
	x            *Index
	ids          map[bookAt]ledger.TopicID
	asked, edges int
}

func (r *modelReader) open() {
	x, err := Open(Config{Dir: "index", Authorizer: rights(nil), Log: slog.New(slog.DiscardHandler), CacheBytes: 1 << 20, fsys: r.fs})
	if err != nil {
		r.t.Fatal(err)
	}
	r.x = x
}

// restart ends the index in good order, or as a crash does, and opens it again.
func (r *modelReader) restart() {
	fs := r.fs
	if r.w.rng.IntN(2) == 0 {
		fs = r.fs.CrashClone(vfs.CrashCloneCfg{})
	}
	if err := r.x.Close(); err != nil {
		r.t.Fatal(err)
	}
	r.fs = fs
	r.open()
}

// read gives the index all that the ledgers have, some pages of each in turn.
func (r *modelReader) read() {
	order, restarts := r.w.shelf(), 0
	for left := true; left; {
		left = false
		for _, at := range order {
			b, id := r.w.books[at], ledger.TopicID{'L', at.cluster[1]}
			from := r.x.Resume(at.cluster, id, map[int32]int64{at.partition: 0})[at.partition]
			to := min(int64(len(b.pages)), from+1+r.w.rng.Int64N(8))
			for o := max(0, from-r.w.rng.Int64N(3)); o < to; o++ { // some again
				p, err := ledger.Decode(b.pages[o])
				if err != nil {
					r.t.Fatal(err)
				}
				r.x.Apply(tail.Position{Cluster: at.cluster, TopicID: id, Partition: at.partition, Offset: o}, p)
			}
		}
		for _, at := range order { // a fold that was read by half had all of its ledger be read again
			id := ledger.TopicID{'L', at.cluster[1]}
			left = left || r.x.Resume(at.cluster, id, map[int32]int64{at.partition: 0})[at.partition] < int64(len(r.w.books[at].pages))
		}
		if restarts < 3 && r.w.rng.IntN(4) == 0 {
			restarts++
			r.restart()
			left = true
		}
	}
	if err := r.x.Err(); err != nil {
		r.t.Fatal(err)
	}
}

// shelf is the books in order.
func (w *modelWorld) shelf() []bookAt {
	return slices.SortedFunc(maps.Keys(w.books), func(a, b bookAt) int {
		return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
	})
}

// modelPlace is an offset of a log.
type modelPlace struct {
	*modelSite
	offset int
}

func (p modelPlace) String() string {
	return fmt.Sprintf("%s/%s/%d/%d", p.end.Cluster, p.end.TopicID, p.end.Partition, p.offset)
}

// near are the copyings that a place has part in, and whether it is where the event was
// born, lost to its source, or not copied.
func (w *modelWorld) near(p modelPlace) (edges []modelEdge, notes []string) {
	rec := &p.log[p.offset]
	switch {
	case rec.lost:
		notes = append(notes, "lost at its source")
	case rec.by != nil:
		edges = append(edges, modelEdge{modelPlace{rec.by.from, rec.source}, p, rec.by.said[rec.source].epoch})
	case rec.born:
		notes = append(notes, "origin")
	}
	for _, c := range w.copies {
		if c.from != p.modelSite {
			continue
		}
		word, said := c.said[p.offset]
		switch {
		case said && word.reason == 0:
			edges = append(edges, modelEdge{p, modelPlace{c.to, word.dest}, word.epoch})
		case said:
			notes = append(notes, c.link.flow()+" "+word.reason.String())
		case p.offset < c.start:
			notes = append(notes, c.link.flow()+" before-start")
		case c.to.dead: // nor will it be: what has taken its place has a copy of its own
		case c.from.dead:
			notes = append(notes, c.link.flow()+" ended")
		default:
			notes = append(notes, c.link.flow()+" pending")
		}
	}
	return edges, notes
}

type modelEdge struct {
	from, to modelPlace
	epoch    uint64
}

func (e modelEdge) String() string { return fmt.Sprintf("%v -> %v at epoch %d", e.from, e.to, e.epoch) }

// story is all that can be said of a place, upstream and downstream.
func (w *modelWorld) story(p modelPlace) []string {
	seen, queue := map[string]bool{p.String(): true}, []modelPlace{p}
	lines := map[string]bool{}
	for ; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		edges, notes := w.near(at)
		lines[at.String()] = true
		for _, n := range notes {
			lines[at.String()+" "+n] = true
		}
		for _, e := range edges {
			lines[e.String()] = true
			for _, next := range []modelPlace{e.from, e.to} {
				if !seen[next.String()] {
					seen[next.String()] = true
					queue = append(queue, next)
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(lines))
}

// answered is an answer in the same form.
func (w *modelWorld) answered(a *Answer) []string {
	place := func(n Node) string { return fmt.Sprintf("%s/%s/%d/%d", n.ClusterID, n.TopicID, n.Partition, n.Offset) }
	lines := map[string]bool{}
	for _, n := range a.Nodes {
		at := place(n)
		lines[at] = true
		if n.Origin && w.born(n) {
			lines[at+" origin"] = true
		}
		if n.SourceLost {
			lines[at+" lost at its source"] = true
		}
		for _, c := range n.NotCopied {
			lines[at+" "+c.Flow+" "+c.Reason] = true
		}
		for _, u := range n.Unknown {
			if !strings.HasPrefix(u, "who produced") {
				lines[at+" unknown: "+u] = true
			}
		}
	}
	for _, e := range a.Edges {
		lines[fmt.Sprintf("%s -> %s at epoch %d", place(a.Nodes[e.From]), place(a.Nodes[e.To]), e.Epoch)] = true
	}
	if a.Truncated != "" {
		lines[a.Truncated] = true
	}
	return slices.Sorted(maps.Keys(lines))
}

// born says that there was a record at a node: of a marker, or of an aborted record,
// nobody asks where it is from.
func (w *modelWorld) born(n Node) bool {
	for _, s := range w.sites {
		if s.end.Cluster == n.ClusterID && s.end.TopicID.String() == n.TopicID && s.end.Partition == n.Partition {
			return s.log[n.Offset].why == 0
		}
	}
	return false
}

func (r *modelReader) check() {
	for _, s := range r.w.sites {
		if !r.w.mentioned(s) {
			continue
		}
		at := Address{Cluster: s.end.Cluster, Topic: s.name, Partition: s.end.Partition, TopicID: s.end.TopicID.String()}
		for o := range s.log {
			at.Offset = int64(o)
			a, err := r.x.Event(r.t.Context(), alice, at)
			if err != nil {
				r.fail("event %+v: %v", at, err)
			}
			want := r.w.story(modelPlace{s, o})
			if got := r.w.answered(a); !slices.Equal(got, want) {
				r.fail("event %v: got\n  %s\nwant\n  %s", modelPlace{s, o}, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
			r.asked, r.edges = r.asked+1, r.edges+len(a.Edges)
			r.checkProducer(s, o, a.Nodes[0])
		}
		r.checkGaps(s, at)
	}
	for _, c := range r.w.copies {
		if start, next, doubt, ok := r.x.Extent(c.id.Key()); !ok || start != int64(c.start) || next != int64(c.next) || doubt != "" {
			r.fail("copy %v: got %d to %d, %q, %v, want %d to %d", c.id, start, next, doubt, ok, c.start, c.next)
		}
	}
}

// mentioned says that a ledger told of the topic.
func (w *modelWorld) mentioned(s *modelSite) bool {
	return len(s.did) > 0 || slices.ContainsFunc(w.copies, func(c *modelCopy) bool {
		return c.from.end.Life() == s.end.Life() || c.to.end.Life() == s.end.Life()
	})
}

func (r *modelReader) checkProducer(s *modelSite, offset int, n Node) {
	var got, want []string
	for _, d := range n.Produced {
		got = append(got, d.Principal)
	}
	for _, d := range s.did {
		place := ledger.Place{First: d.first, Last: d.last, Parts: d.parts}
		if _, touches := place.Touching(int64(offset), int64(offset)); touches {
			want = append(want, d.principal)
		}
	}
	if !slices.Equal(got, want) {
		r.fail("%v was produced by %v, want %v", modelPlace{s, offset}, got, want)
	}
}

// checkGaps holds the list of what was not copied against what was said of each offset.
func (r *modelReader) checkGaps(s *modelSite, at Address) {
	at.Offset = 0
	page, err := r.x.Gaps(r.t.Context(), alice, at, int64(len(s.log)))
	if err != nil || page.Next > 0 || len(page.Unknown) > 0 {
		r.fail("gaps of %+v: %+v, %v", at, page, err)
	}
	var got, want []string
	for _, g := range page.Gaps {
		for o := g.Source; o < g.Source+g.Count; o++ {
			got = append(got, fmt.Sprintf("%s %d %s", g.Flow, o, g.Reason))
		}
	}
	for _, c := range r.w.copies {
		if c.from != s {
			continue
		}
		for o, word := range c.said {
			if word.reason != 0 {
				want = append(want, fmt.Sprintf("%s %d %s", c.link.flow(), o, word.reason))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		r.fail("gaps of %+v: got %v, want %v", at, got, want)
	}
}

func (r *modelReader) fail(format string, args ...any) {
	r.t.Helper()
	for _, s := range r.w.sites {
		r.t.Logf("%s/%s/%d of %s: %d offsets, gone %v", s.end.Cluster, s.end.TopicID, s.end.Partition, s.name, len(s.log), s.dead)
	}
	r.t.Fatalf("%s: %s\nplay it again: go test ./lineage -run TestAgainstModel -histories 1 -history-seed %d", r.w.name, fmt.Sprintf(format, args...), r.w.seed)
}
