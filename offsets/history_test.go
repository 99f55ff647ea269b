package offsets

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// history is a naive model of any number of partitions, each in a cluster of its own,
// and of copies between them. It remembers every record that was ever written, and
// answers by sets; the maps are told nothing but pages of ledgers.
type history struct {
	t      *testing.T
	rng    *rand.Rand
	name   string
	sites  []*site
	copies []*modelCopy
	ms     *Maps
	pages  []writtenPage // of all ledgers, in order
	chains map[string]*ledger.Chain
	fresh  int
}

// site is a partition and the ledger of its cluster.
type site struct {
	end  ledger.End
	log  []modelRecord
	next int64 // of the ledger
}

// modelRecord is one offset of a log.
type modelRecord struct {
	id   int // of a record that can be read or could be once, 0 for markers and what was aborted
	why  ledger.Reason
	path []int // sites that it has passed, its birthplace first; the one where it lies is not among them
	base int   // how many of them it has been through before it was, as it were, born again
	gone bool  // the cleaner has removed it
}

// birthplace is the site where a record that lies at a site was born, and what it had
// passed by then.
func (r modelRecord) birthplace(at int) (site int, passed []int) {
	if len(r.path) > r.base {
		return r.path[r.base], r.path[:r.base]
	}
	return at, r.path
}

func (r modelRecord) readable() bool { return r.id != 0 && !r.gone }

func (r modelRecord) String() string {
	return fmt.Sprintf("%d%v%s", r.id, r.path, map[bool]string{true: "gone"}[r.gone])
}

type modelCopy struct {
	from, to int
	local    bool
	id       ledger.CopyID
	epoch    uint64
	next     int
	image    map[int]int // source offset -> destination offset
}

type writtenPage struct {
	at    tail.Position
	page  *ledger.Page
	value []byte
}

// modelShape is which copies there are: pairs of sites.
type modelShape struct {
	name   string
	sites  int
	copies [][2]int
	local  bool
}

var modelShapes = []modelShape{
	{"one way", 2, [][2]int{{0, 1}}, false},
	{"both ways", 2, [][2]int{{0, 1}, {1, 0}}, false},
	{"a chain", 3, [][2]int{{0, 1}, {1, 2}}, false},
	{"a ring", 3, [][2]int{{0, 1}, {1, 2}, {2, 0}}, false},
	{"a ring of four", 4, [][2]int{{0, 1}, {1, 2}, {2, 3}, {3, 0}}, false},
	{"a mesh", 3, [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}, {1, 2}, {2, 1}}, true},
	{"a hub", 3, [][2]int{{0, 1}, {1, 0}, {2, 1}, {1, 2}}, false},
	{"several into one", 3, [][2]int{{0, 2}, {1, 2}}, false},
}

func newHistory(t *testing.T, shape modelShape, seed uint64) *history {
	h := &history{
		t: t, rng: rand.New(rand.NewPCG(seed, 11)), ms: NewMaps(), name: fmt.Sprintf("%s, seed %d", shape.name, seed),
		chains: map[string]*ledger.Chain{},
	}
	for i := range shape.sites {
		h.sites = append(h.sites, &site{end: ledger.End{Cluster: fmt.Sprintf("c%d", i), TopicID: ledger.TopicID{byte(i + 1)}}})
	}
	for _, c := range shape.copies {
		h.addCopy(c[0], c[1], shape.local)
	}
	return h
}

func (h *history) addCopy(from, to int, local bool) {
	c := &modelCopy{from: from, to: to, local: local, image: map[int]int{}}
	h.copies = append(h.copies, c)
	h.begin(c)
}

// say writes a page to the ledger of a copy's destination, as bytes, and has the maps
// read it.
func (h *history) say(c *modelCopy, entries ...ledger.Entry) {
	s := h.sites[c.to]
	chain := h.chains[s.end.Cluster]
	if chain == nil {
		chain = ledger.NewChain(ledger.WriterID{byte(c.to)})
		h.chains[s.end.Cluster] = chain
	}
	value := chain.Encode(entries)
	page, err := ledger.Decode(value)
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	at := tail.Position{Cluster: s.end.Cluster, Offset: s.next}
	s.next++
	h.pages = append(h.pages, writtenPage{at, page, value})
	h.ms.Apply(at, page)
}

func (h *history) begin(c *modelCopy) {
	c.id = ledger.CopyID{Source: h.sites[c.from].end, Destination: h.sites[c.to].end}
	c.epoch++
	h.say(c, &ledger.Begin{Copy: c.id, Epoch: c.epoch, Resume: int64(c.next), Flow: fmt.Sprintf("%d-%d", c.from, c.to), Lane: "lane"})
}

// tellAgain has the next owner of a copy, who had not read all that was told, tell again
// from the data what it finds from some offset on, in two parts. Then it has transactions.
func (h *history) tellAgain(c *modelCopy) {
	from := h.rng.IntN(c.next + 1)
	middle := from + h.rng.IntN(c.next-from+1)
	c.epoch++
	h.say(c, &ledger.Begin{Copy: c.id, Epoch: c.epoch, Resume: int64(from), Flow: fmt.Sprintf("%d-%d", c.from, c.to), Lane: ledger.PlainLane("lane")})
	for _, part := range [][2]int{{from, middle}, {middle, c.next}} {
		if part[0] == part[1] {
			continue
		}
		hop := &ledger.Hop{Copy: c.id.Key(), Epoch: c.epoch, From: int64(part[0]), Next: int64(part[1]), At: time.UnixMilli(int64(len(h.pages)))}
		for x := part[0]; x < part[1]; x++ {
			if d, copied := c.image[x]; copied {
				hop.Runs = append(hop.Runs, ledger.Run{Source: int64(x), Count: 1, Destination: int64(d), Path: ledger.Reencoded})
			} else {
				hop.Gaps = append(hop.Gaps, ledger.Gap{Source: int64(x), Count: 1, Reason: cmp.Or(h.reason(c, h.sites[c.from].log[x]), ledger.Compacted)})
			}
		}
		h.say(c, hop)
	}
	h.begin(c)
}

// write appends a transaction or plain records, which are born there.
func (h *history) write(i int) {
	s := h.sites[i]
	aborted := h.rng.IntN(6) == 0
	for range h.rng.IntN(5) {
		h.fresh++
		r := modelRecord{id: h.fresh}
		if aborted {
			r.id, r.why = 0, ledger.Aborted
		}
		s.log = append(s.log, r)
	}
	if aborted || h.rng.IntN(4) == 0 {
		s.log = append(s.log, modelRecord{why: ledger.Control})
	}
}

// compact has the cleaner of a log remove records, copied on already or not.
func (h *history) compact(i int) {
	s := h.sites[i]
	for range h.rng.IntN(4) {
		if n := len(s.log); n > 0 {
			if r := &s.log[h.rng.IntN(n)]; r.id != 0 {
				r.gone = true
			}
		}
	}
}

// reason is why a copy leaves a record out, 0 if it does not.
func (h *history) reason(c *modelCopy, r modelRecord) ledger.Reason {
	switch {
	case r.id == 0:
		return r.why
	case r.gone:
		return ledger.Compacted
	case slices.Contains(r.path, c.to):
		return ledger.Returned
	case c.local && len(r.path) > 0:
		return ledger.NotLocal
	}
	return 0
}

// copyOn copies some offsets in one transaction; the owner may crash before it commits.
func (h *history) copyOn(c *modelCopy) {
	src, dst := h.sites[c.from], h.sites[c.to]
	if c.next >= len(src.log) {
		return
	}
	crash := h.rng.IntN(8) == 0
	to := min(len(src.log), c.next+1+h.rng.IntN(12))
	hop := &ledger.Hop{Copy: c.id.Key(), Epoch: c.epoch, From: int64(c.next), Next: int64(to), At: time.UnixMilli(int64(len(h.pages)))}
	for x := c.next; x < to; x++ {
		r := src.log[x]
		if why := h.reason(c, r); why != 0 {
			if n := len(hop.Gaps); n > 0 && hop.Gaps[n-1].Reason == why && hop.Gaps[n-1].Source+hop.Gaps[n-1].Count == int64(x) {
				hop.Gaps[n-1].Count++
			} else {
				hop.Gaps = append(hop.Gaps, ledger.Gap{Source: int64(x), Count: 1, Reason: why})
			}
			continue
		}
		if h.rng.IntN(20) == 0 { // somebody else's record comes between
			h.fresh++
			dst.log = append(dst.log, modelRecord{id: h.fresh})
		}
		d := len(dst.log)
		if crash {
			dst.log = append(dst.log, modelRecord{why: ledger.Aborted})
			continue
		}
		dst.log = append(dst.log, modelRecord{id: r.id, path: append(slices.Clone(r.path), c.from), base: r.base})
		c.image[x] = d
		if n := len(hop.Runs); n > 0 && hop.Runs[n-1].Source+hop.Runs[n-1].Count == int64(x) && hop.Runs[n-1].Destination+hop.Runs[n-1].Count == int64(d) {
			hop.Runs[n-1].Count++
		} else {
			hop.Runs = append(hop.Runs, ledger.Run{Source: int64(x), Count: 1, Destination: int64(d), Path: ledger.Raw})
		}
	}
	dst.log = append(dst.log, modelRecord{why: ledger.Control})
	if crash {
		h.begin(c)
		return
	}
	c.next = to
	h.say(c, hop)
}

// truncate cuts the tail of a log off: who copies into it goes back, who copies from
// it takes back what the source has no more.
func (h *history) truncate(i int) {
	s := h.sites[i]
	if len(s.log) == 0 {
		return
	}
	cut := len(s.log) - h.rng.IntN(min(len(s.log), 6))
	s.log = slices.Clone(s.log[:cut])
	for _, c := range h.copies {
		switch {
		case c.to == i:
			source := c.next
			for x, d := range c.image {
				if d >= cut {
					source = min(source, x)
				}
			}
			h.takeBack(c, source, cut, ledger.LostAtDestination)
		case c.from == i && c.next > cut:
			destination := len(h.sites[c.to].log)
			for x, d := range c.image {
				if x >= cut {
					destination = min(destination, d)
				}
			}
			for x, d := range c.image {
				if x >= cut {
					h.fresh++
					h.orphan(c.to, d, h.fresh)
				}
			}
			h.takeBack(c, cut, destination, ledger.LostAtSource)
		}
	}
}

// orphan makes a record, and the copies of it further on, one that was born at a site:
// its source has lost it, and if it comes again that is another record.
func (h *history) orphan(i, at, id int) {
	r := &h.sites[i].log[at]
	r.id = id
	r.base = len(r.path)
	for _, c := range h.copies {
		if d, ok := c.image[at]; ok && c.from == i {
			h.orphan(c.to, d, id)
			h.rebase(c.to, d, r.base)
		}
	}
}

func (h *history) rebase(i, at, base int) {
	h.sites[i].log[at].base = base
	for _, c := range h.copies {
		if d, ok := c.image[at]; ok && c.from == i {
			h.rebase(c.to, d, base)
		}
	}
}

func (h *history) takeBack(c *modelCopy, source, destination int, lost ledger.LostSide) {
	for x := source; x < c.next; x++ {
		delete(c.image, x)
	}
	c.next = source
	h.say(c, &ledger.Retraction{Copy: c.id.Key(), Epoch: c.epoch, Source: int64(source), Destination: int64(destination), Lost: lost})
}

// run plays a random history.
func (h *history) run(steps int, harm bool) {
	for range steps {
		i, c := h.rng.IntN(len(h.sites)), h.copies[h.rng.IntN(len(h.copies))]
		switch n := h.rng.IntN(20); {
		case n < 6:
			h.write(i)
		case n < 16:
			h.copyOn(c)
		case n < 17:
			h.begin(c)
		case n < 18:
			h.compact(i)
		case harm:
			h.truncate(i)
		}
	}
}

// read is the records that a reader has read who stands at x in a site, as ids.
func (h *history) read(i, x int) map[int]bool {
	read := map[int]bool{}
	for _, r := range h.sites[i].log[:x] {
		read[r.id] = r.id != 0
	}
	return read
}

// passes says whether records that lie at a site come to another, in whichever way.
func (h *history) passes(r modelRecord, at, to int) bool {
	if at == to {
		return true
	}
	for _, c := range h.copies {
		if c.from == at && h.reason(c, modelRecord{id: 1, path: r.path}) == 0 {
			next := r
			next.path = append(slices.Clone(r.path), at)
			if h.passes(next, c.to, to) {
				return true
			}
		}
	}
	return false
}

// concerns says whether a record at site to is one that a reader at site from may have
// read or will: it was born there and came here, or comes there from its birthplace.
func (h *history) concerns(r modelRecord, from, to int) bool {
	site, passed := r.birthplace(to)
	return h.passes(modelRecord{path: passed}, site, from)
}

// cleaned says that a cleaner has removed a record somewhere: so it may never come to
// a place although others of its birthplace do.
func (h *history) cleaned(id int) bool {
	return slices.ContainsFunc(h.sites, func(s *site) bool {
		return slices.ContainsFunc(s.log, func(r modelRecord) bool { return r.id == id && r.gone })
	})
}

// check asks for every position of every pair of sites that a copy connects, and holds
// the answers against what each reader has read.
func (h *history) check() (rereads int) {
	for _, c := range h.copies {
		for _, pair := range [][2]int{{c.from, c.to}, {c.to, c.from}} {
			for x := range len(h.sites[pair[0]].log) + 1 {
				rereads += h.checkOne(pair[0], pair[1], x)
			}
		}
	}
	return rereads
}

func (h *history) checkOne(from, to, x int) int {
	route := h.ms.Route(h.sites[from].end, h.sites[to].end)
	there := h.sites[to].log
	got := route.Translate(int64(x), Bounds{0, int64(len(there)), int64(len(there))})
	if got.Offset < 0 {
		if got.Why != Ahead {
			h.t.Fatalf("%s: %d of site %d in site %d: got %+v", h.name, x, from, to, got)
		}
		return 0
	}
	// What a cleaner has removed there since counts as if it were there: nobody
	// knows.
	read, reread, unread := h.read(from, x), int64(0), false
	for d, r := range there {
		if r.id == 0 || !h.concerns(r, from, to) {
			continue
		}
		unread = unread || !read[r.id]
		switch {
		case r.readable() && !read[r.id] && int64(d) < got.Offset && !h.cleaned(r.id):
			h.fail(from, to, x, "got %+v, which skips the record at %d", got, d)
		case read[r.id] && int64(d) >= got.Offset && !unread && !h.unscanned(route.Back, to, int(got.Offset)):
			h.fail(from, to, x, "got %+v: the record at %d was read, and nothing unread lies before it", got, d)
		case read[r.id] && int64(d) >= got.Offset:
			reread++
		}
	}
	if other := route.mixed(); other != nil && reread == 0 {
		return 0 // of what that one brought nothing is known
	}
	if got.Reread != reread || got.Exact != (reread == 0) {
		h.fail(from, to, x, "got %+v, want %d read again", got, reread)
	}
	return int(reread)
}

// unscanned says that an answer lies at an offset without a record, or with one that its
// source has lost, where no copy back has come to yet: nobody can tell it from one that
// is yet to be copied.
func (h *history) unscanned(back *Map, to, at int) bool {
	r := h.sites[to].log[at]
	return back != nil && int64(at) >= back.Next() && (r.id == 0 || r.base > 0)
}

func (h *history) fail(from, to, x int, format string, args ...any) {
	h.t.Helper()
	for i, s := range h.sites {
		h.t.Logf("site %d: %v", i, s.log)
	}
	for _, c := range h.copies {
		h.t.Logf("copy %d-%d has come to %d", c.from, c.to, c.next)
	}
	h.t.Fatalf("%s: position %d of site %d in site %d: %s", h.name, x, from, to, fmt.Sprintf(format, args...))
}

// TestHistories plays random histories of every shape and asks for every offset of
// every partition, both ways.
func TestHistories(t *testing.T) {
	for _, shape := range modelShapes {
		t.Run(shape.name, func(t *testing.T) {
			mixed := 0
			for seed := range seeds(25) {
				h := newHistory(t, shape, seed)
				h.run(60, seed%3 == 0)
				mixed += h.check()
				h.rebuild()
				h.check()
			}
			if mixed == 0 && len(shape.copies) > 2 {
				t.Error("no history mixed writers")
			}
		})
	}
}

// TestSeveralSourcesAgainstModel: a reader of two sources of one topic.
func TestSeveralSourcesAgainstModel(t *testing.T) {
	mixed := 0
	for seed := range seeds(60) {
		h := newHistory(t, modelShapes[len(modelShapes)-1], seed)
		h.run(60, seed%3 == 0)
		there := h.sites[2].log
		for x := range h.copies[0].next + 1 {
			z := h.rng.IntN(h.copies[1].next + 1)
			route := h.ms.Route(h.sites[0].end, h.sites[2].end)
			for _, m := range route.Further() {
				if m.ID().Source == h.sites[1].end {
					route.Shares = append(route.Shares, Share{m, int64(z)})
				}
			}
			got := route.Translate(int64(x), Bounds{0, int64(len(there)), int64(len(there))})
			read, reread := h.read(0, x), int64(0)
			for id, ok := range h.read(1, z) {
				read[id] = ok
			}
			unread := false
			for d, r := range there {
				if r.id == 0 || len(r.path) == r.base {
					continue // it was born there
				}
				unread = unread || !read[r.id]
				switch {
				case r.readable() && !read[r.id] && int64(d) < got.Offset && !h.cleaned(r.id):
					h.fail(0, 2, x, "with %d: got %+v, which skips the record at %d", z, got, d)
				case read[r.id] && int64(d) >= got.Offset && !unread:
					h.fail(0, 2, x, "with %d: got %+v: the record at %d was read, and nothing unread lies before it", z, got, d)
				case read[r.id] && int64(d) >= got.Offset:
					reread++
				}
			}
			if got.Reread != reread || got.Exact != (reread == 0) {
				h.fail(0, 2, x, "with %d: got %+v, want %d read again", z, got, reread)
			}
			mixed += int(reread)
		}
	}
	if mixed == 0 {
		t.Error("no history mixed both sources")
	}
}

// rebuild loses every map and folds the ledgers again, one ledger after the other.
func (h *history) rebuild() {
	h.ms = NewMaps()
	for _, s := range h.sites {
		for _, p := range h.pages {
			if p.at.Cluster == s.end.Cluster {
				h.ms.Apply(p.at, p.page)
			}
		}
	}
}
