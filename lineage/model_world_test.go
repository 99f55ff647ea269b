package lineage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
)

// modelWorld is a naive model of partitions in three clusters and of copies between
// them. It remembers every record that was ever written and what was said of it, each
// by itself; the index is told nothing but pages of ledgers.
type modelWorld struct {
	rng    *rand.Rand
	seed   uint64
	name   string
	links  []modelLink
	live   map[modelTopic][]*modelSite // by partition
	sites  []*modelSite                // of all lives
	copies []*modelCopy                // between all lives
	books  map[bookAt]*book
	topics byte // lives that there were
	now    int64
	tells  int // the cluster whose ledger says who produced, -1 if none does
}

type modelTopic struct {
	cluster int
	name    string
}

// modelLink is a flow of one topic.
type modelLink struct {
	from, to modelTopic
	local    bool
}

func (l modelLink) flow() string {
	return fmt.Sprintf("%d/%s-%d/%s", l.from.cluster, l.from.name, l.to.cluster, l.to.name)
}

// modelSite is a partition in one life of its topic.
type modelSite struct {
	modelTopic
	end  ledger.End
	log  []modelRecord
	dead bool
	did  []modelDeed
}

// modelRecord is one offset of a log.
type modelRecord struct {
	born bool          // a record was produced here
	why  ledger.Reason // why there is no record, 0 if there is one
	gone bool          // the cleaner has removed it
	path []ledger.Life // where it has been

	by     *modelCopy // that brought it, nil if it was born here
	source int
	lost   bool // the source has lost it since
}

type modelDeed struct {
	principal   string
	first, last int64
	parts       []ledger.Stretch
}

// modelCopy is one copy; said is what its ledger says of each source offset.
type modelCopy struct {
	link        modelLink
	from, to    *modelSite
	id          ledger.CopyID
	epoch       uint64
	start, next int
	said        map[int]modelWord
}

type modelWord struct {
	dest   int // -1 where there is none
	reason ledger.Reason
	epoch  uint64
}

// bookAt is a partition of a cluster's ledger.
type bookAt struct {
	cluster   string
	partition int32
}

type book struct {
	pages [][]byte
	draft []ledger.Entry
	chain *ledger.Chain
}

// modelShapes are which flows there are.
var modelShapes = []struct {
	name  string
	links []modelLink
}{
	{"a chain", []modelLink{{from: modelTopic{0, "t"}, to: modelTopic{1, "t"}}, {from: modelTopic{1, "t"}, to: modelTopic{2, "t"}}}},
	{"both ways", []modelLink{{from: modelTopic{0, "t"}, to: modelTopic{1, "t"}}, {from: modelTopic{1, "t"}, to: modelTopic{0, "t"}}}},
	{"a ring", []modelLink{
		{from: modelTopic{0, "t"}, to: modelTopic{1, "t"}}, {from: modelTopic{1, "t"}, to: modelTopic{2, "t"}}, {from: modelTopic{2, "t"}, to: modelTopic{0, "t"}},
	}},
	{"a mesh", []modelLink{
		{modelTopic{0, "t"}, modelTopic{1, "t"}, true},
		{modelTopic{1, "t"}, modelTopic{0, "t"}, true},
		{modelTopic{0, "t"}, modelTopic{2, "t"}, true},
		{modelTopic{2, "t"}, modelTopic{0, "t"}, true},
		{modelTopic{1, "t"}, modelTopic{2, "t"}, true},
		{modelTopic{2, "t"}, modelTopic{1, "t"}, true},
	}},
	{"several into one, and on under another name", []modelLink{
		{from: modelTopic{0, "t"}, to: modelTopic{1, "all"}}, {from: modelTopic{2, "u"}, to: modelTopic{1, "all"}}, {from: modelTopic{1, "all"}, to: modelTopic{2, "all"}},
	}},
	{"to two", []modelLink{{from: modelTopic{0, "t"}, to: modelTopic{1, "t"}}, {from: modelTopic{0, "t"}, to: modelTopic{2, "t2"}}}},
}

func newModelWorld(seed uint64) *modelWorld {
	shape := modelShapes[seed%uint64(len(modelShapes))]
	w := &modelWorld{
		rng: rand.New(rand.NewPCG(seed, 7)), seed: seed, name: fmt.Sprintf("history %d, %s", seed, shape.name), links: shape.links,
		live: map[modelTopic][]*modelSite{}, books: map[bookAt]*book{}, tells: -1,
	}
	if w.rng.IntN(2) == 0 {
		w.tells = w.rng.IntN(3)
	}
	partitions := 1 + w.rng.IntN(2)
	for _, l := range w.links {
		for _, t := range []modelTopic{l.from, l.to} {
			if w.live[t] == nil {
				w.create(t, partitions)
			}
		}
	}
	for _, l := range w.links {
		w.connect(l)
	}
	return w
}

func (w *modelWorld) tick() time.Time {
	w.now++
	return time.UnixMilli(1_700_000_000_000 + w.now).UTC()
}

// create makes a topic, or makes it again.
func (w *modelWorld) create(t modelTopic, partitions int) {
	w.topics++
	var sites []*modelSite
	for p := range partitions {
		s := &modelSite{modelTopic: t, end: ledger.End{Cluster: fmt.Sprintf("c%d", t.cluster), TopicID: ledger.TopicID{w.topics}, Partition: int32(p)}}
		sites = append(sites, s)
	}
	w.live[t] = sites
	w.sites = append(w.sites, sites...)
}

// connect begins the copies of a flow, between the present lives.
func (w *modelWorld) connect(l modelLink) {
	for p, from := range w.live[l.from] {
		c := &modelCopy{link: l, from: from, to: w.live[l.to][p], said: map[int]modelWord{}}
		c.id = ledger.CopyID{Source: c.from.end, Destination: c.to.end}
		w.copies = append(w.copies, c)
		skip := w.rng.IntN(len(from.log)/2 + 1)
		if w.rng.IntN(2) == 0 {
			c.start, c.next = skip, skip
			w.begin(c)
			continue
		}
		w.begin(c)
		if skip == 0 {
			continue
		}
		for x := range skip {
			c.said[x] = modelWord{-1, ledger.NotAsked, c.epoch}
		}
		c.next = skip
		w.say(c, &ledger.Hop{
			Copy: c.id.Key(), Epoch: c.epoch, Next: int64(skip), At: w.tick(),
			Gaps: []ledger.Gap{{Count: int64(skip), Reason: ledger.NotAsked}},
		})
	}
}

func (w *modelWorld) recreate(t modelTopic) {
	for _, s := range w.live[t] {
		s.dead = true
	}
	w.create(t, len(w.live[t]))
	for _, l := range w.links {
		if l.from == t || l.to == t {
			w.connect(l)
		}
	}
}

// say has an entry written to the ledger of a copy's destination.
func (w *modelWorld) say(c *modelCopy, e ledger.Entry) {
	w.write(bookAt{c.to.end.Cluster, ledger.PartitionOf(c.id, 4)}, e)
}

// write ends a page here and there, so that entries share pages as it comes.
func (w *modelWorld) write(at bookAt, e ledger.Entry) {
	b := w.books[at]
	if b == nil {
		b = &book{chain: ledger.NewChain(ledger.WriterID{byte(at.partition)})}
		w.books[at] = b
	}
	if b.draft = append(b.draft, e); w.rng.IntN(3) == 0 {
		b.end()
	}
}

func (b *book) end() {
	if len(b.draft) > 0 {
		b.pages, b.draft = append(b.pages, b.chain.Encode(b.draft)), nil
	}
}

func (w *modelWorld) begin(c *modelCopy) { w.beginAt(c, c.next, "lane") }

func (w *modelWorld) beginAt(c *modelCopy, resume int, lane string) {
	c.epoch++
	w.say(c, &ledger.Begin{
		Copy: c.id, Epoch: c.epoch, Resume: int64(resume), At: w.tick(), Flow: c.link.flow(), Lane: lane, Fleet: "f",
		SourceCluster: c.from.end.Cluster, DestinationCluster: c.to.end.Cluster, SourceTopic: c.from.name, DestinationTopic: c.to.name,
	})
}

// tellAgain has the next owner of a copy, who had not read all that was said, say again
// from the data what it finds from some offset on.
func (w *modelWorld) tellAgain(c *modelCopy) {
	if c.from.dead || c.to.dead {
		return
	}
	from := c.start + w.rng.IntN(c.next-c.start+1)
	w.beginAt(c, from, ledger.PlainLane("lane"))
	h := &ledger.Hop{Copy: c.id.Key(), Epoch: c.epoch, From: int64(from), Next: int64(c.next), At: w.tick()}
	for x := from; x < c.next; x++ {
		word := c.said[x]
		word.epoch = c.epoch
		c.said[x] = word
		if word.reason != 0 {
			h.Gaps = append(h.Gaps, ledger.Gap{Source: int64(x), Count: 1, Reason: word.reason})
		} else {
			h.Runs = append(h.Runs, ledger.Run{Source: int64(x), Count: 1, Destination: int64(word.dest), Path: ledger.Reencoded})
		}
	}
	if from < c.next {
		w.say(c, h)
	}
	w.begin(c)
}

// produce appends records, in a transaction or not, which are born there.
func (w *modelWorld) produce(s *modelSite) {
	first := int64(len(s.log))
	aborted, n := w.rng.IntN(6) == 0, w.rng.IntN(5)
	for range n {
		r := modelRecord{born: true}
		if aborted {
			r = modelRecord{why: ledger.Aborted}
		}
		s.log = append(s.log, r)
	}
	if n > 0 && s.cluster == w.tells && !aborted {
		w.tell(s, first, int64(len(s.log)-1))
	}
	if aborted || w.rng.IntN(4) == 0 {
		s.log = append(s.log, modelRecord{why: ledger.Control})
	}
}

// tell has the ledger say who produced: one client, or two that took turns.
func (w *modelWorld) tell(s *modelSite, first, last int64) {
	deeds := []modelDeed{{principal: fmt.Sprintf("User:p%d", w.rng.IntN(3)), first: first, last: last}}
	if last > first && w.rng.IntN(3) == 0 {
		other := modelDeed{principal: "User:other"}
		deeds[0].principal = "User:one"
		for o := first; o <= last; o++ {
			d := &deeds[0]
			if w.rng.IntN(2) == 0 {
				d = &other
			}
			if n := len(d.parts); n > 0 && d.parts[n-1].Last == o-1 {
				d.parts[n-1].Last = o
			} else {
				d.parts = append(d.parts, ledger.Stretch{First: o, Last: o})
			}
		}
		deeds = append(deeds, other)
		deeds = slices.DeleteFunc(deeds, func(d modelDeed) bool { return len(d.parts) == 0 })
		for i, d := range deeds {
			deeds[i].first, deeds[i].last = d.parts[0].First, d.parts[len(d.parts)-1].Last
		}
	}
	s.did = append(s.did, deeds...)
	for _, d := range deeds {
		at := w.tick()
		w.write(bookAt{s.end.Cluster, int32(w.rng.IntN(4))}, &ledger.Production{
			Place:  ledger.Place{TopicID: s.end.TopicID, Topic: s.name, Partition: s.end.Partition, First: d.first, Last: d.last, Parts: d.parts},
			Client: ledger.Client{Principal: d.principal}, FirstAt: at, At: at,
		})
	}
}

// compact has the cleaner remove records, copied on already or not.
func (w *modelWorld) compact(s *modelSite) {
	for range w.rng.IntN(4) {
		if n := len(s.log); n > 0 {
			s.log[w.rng.IntN(n)].gone = true
		}
	}
}

// reason is why a copy leaves out what is at an offset, 0 if it does not.
func (c *modelCopy) reason(r *modelRecord) ledger.Reason {
	switch {
	case r.why != 0:
		return r.why
	case r.gone:
		return ledger.Compacted
	case slices.Contains(r.path, c.to.end.Life()):
		return ledger.Returned
	case c.link.local && len(r.path) > 0:
		return ledger.NotLocal
	}
	return 0
}

// copyOn copies some offsets in one transaction; its owner may crash before it commits.
func (w *modelWorld) copyOn(c *modelCopy) {
	if c.from.dead || c.to.dead || c.next >= len(c.from.log) {
		return
	}
	crash := w.rng.IntN(8) == 0
	to := min(len(c.from.log), c.next+1+w.rng.IntN(12))
	h := &ledger.Hop{Copy: c.id.Key(), Epoch: c.epoch, From: int64(c.next), Next: int64(to), At: w.tick()}
	words := map[int]modelWord{}
	for x := c.next; x < to; x++ {
		r := c.from.log[x]
		if why := c.reason(&r); why != 0 {
			words[x] = modelWord{-1, why, c.epoch}
			if n := len(h.Gaps); n > 0 && h.Gaps[n-1].Reason == why && h.Gaps[n-1].Source+h.Gaps[n-1].Count == int64(x) {
				h.Gaps[n-1].Count++
			} else {
				h.Gaps = append(h.Gaps, ledger.Gap{Source: int64(x), Count: 1, Reason: why})
			}
			continue
		}
		if w.rng.IntN(20) == 0 { // somebody else's record comes between
			w.produce(c.to)
		}
		d := len(c.to.log)
		if crash {
			c.to.log = append(c.to.log, modelRecord{why: ledger.Aborted})
			continue
		}
		c.to.log = append(c.to.log, modelRecord{path: append(slices.Clone(r.path), c.from.end.Life()), by: c, source: x})
		words[x] = modelWord{dest: d, epoch: c.epoch}
		if n := len(h.Runs); n > 0 && h.Runs[n-1].Source+h.Runs[n-1].Count == int64(x) && h.Runs[n-1].Destination+h.Runs[n-1].Count == int64(d) {
			h.Runs[n-1].Count++
		} else {
			h.Runs = append(h.Runs, ledger.Run{Source: int64(x), Count: 1, Destination: int64(d), Path: ledger.Raw})
		}
	}
	c.to.log = append(c.to.log, modelRecord{why: ledger.Control})
	if crash {
		w.begin(c)
		return
	}
	if c.epoch > 1 && w.rng.IntN(6) == 0 { // a zombie's late entry, which is void
		stale := *h
		stale.Epoch, stale.Runs, stale.Gaps = h.Epoch-1, nil, []ledger.Gap{{Source: h.From, Count: h.Next - h.From, Reason: ledger.Filtered}}
		w.say(c, &stale)
	}
	for x, word := range words {
		c.said[x] = word
	}
	c.next = to
	w.say(c, h)
}

// truncate cuts the tail of a log off: who copies into it goes back, who copies from it
// takes back what the source has no more. What a life of a topic left there, or took from
// there, that is gone itself is not cut: nobody would say so.
func (w *modelWorld) truncate(s *modelSite) {
	if s.dead {
		return
	}
	cut, least := len(s.log), 0
	for _, c := range w.copies {
		if c.from == s && c.to.dead {
			least = max(least, c.next)
		}
	}
	for range w.rng.IntN(6) {
		if cut <= least || s.log[cut-1].by != nil && s.log[cut-1].by.from.dead {
			break
		}
		cut--
	}
	if cut == len(s.log) {
		return
	}
	s.log = slices.Clone(s.log[:cut])
	for _, c := range w.copies {
		switch {
		case c.from.dead || c.to.dead: // nobody asks about it any more
		case c.to == s:
			source := c.next
			for x, word := range c.said {
				if word.dest >= cut {
					source = min(source, x)
				}
			}
			w.takeBack(c, source, cut, ledger.LostAtDestination)
		case c.from == s && c.next > cut:
			destination := len(c.to.log)
			for x, word := range c.said {
				if x >= cut && word.dest >= 0 {
					destination = min(destination, word.dest)
					c.to.log[word.dest].lost = true
				}
			}
			w.takeBack(c, cut, destination, ledger.LostAtSource)
		}
	}
}

func (w *modelWorld) takeBack(c *modelCopy, source, destination int, lost ledger.LostSide) {
	for x := source; x < c.next; x++ {
		delete(c.said, x)
	}
	c.next, c.start = source, min(c.start, source)
	w.say(c, &ledger.Retraction{Copy: c.id.Key(), Epoch: c.epoch, Source: int64(source), Destination: int64(destination), At: w.tick(), Lost: lost})
}
