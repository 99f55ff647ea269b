package mirror

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Origins says where the records of a source partition are from, as the ledger of
// the source's cluster tells. Clusters are named by cluster.id. It is safe for
// concurrent use.
type Origins interface {
	// Replicator says whether the ledger, as far as it has been read, has a producer
	// id as a replicator's, and whether as one that writes without transactions.
	Replicator(cluster string, producerID int64) (known, plain bool)
	// Origin is where the record at an offset is from, if a hop that has been read
	// tells.
	Origin(at ledger.End, offset int64) (ledger.Origin, bool)
	// Stray says that no hop tells of a record though hops tell of what was written
	// behind it: a replicator that writes without transactions wrote it twice.
	Stray(at ledger.End, offset int64) bool
	// ReadLedger returns when everything that was in the ledger at the call has been
	// read; exists is false if the cluster shows no ledger. It returns an error if the
	// ledger cannot be read, is not the one that it was, or may have lost entries.
	ReadLedger(ctx context.Context, cluster string) (exists bool, err error)
}

// question is what a batch asks before it is copied: where is it from?
type question struct {
	offset        int64
	producerID    int64 // -1: none
	transactional bool
	decided       bool // its transaction, if any, had ended when it was fetched
}

// ruling is what becomes of the source offsets from that of the question up to
// next: they are copied, with the route by which they had come, or they are not.
type ruling struct {
	skip  ledger.Reason // 0: copy
	route ledger.Route
	next  int64
}

// openQuestion says that it is not known yet where a batch is from.
type openQuestion struct{ question }

func (e *openQuestion) Error() string {
	return fmt.Sprintf("where the batch at offset %d is from is not known yet", e.offset)
}

// provenance decides for one copy what comes back, and what is to be copied. It
// never guesses: what is not known is a question, for the [inquirer].
//
// A batch of a producer that the ledger does not have was born at the source, once
// the ledger has been read to its end since the batch was fetched: a lane registers
// its producer id before its first batch. That answer stays. One of a producer that
// the ledger has is as its hop says, which is visible when its data is; a lane writes
// transactional batches only, or none, so another one with its producer id is not the
// lane's.
// In a mirror topic the producer ids are another cluster's and say nothing.
type provenance struct {
	origins     Origins
	source      ledger.End
	destination ledger.Life
	localOnly   bool
	whole       bool // nothing is skipped, and what is not committed is copied too
	locals      *locals

	mu     sync.Mutex
	mirror mirrorPart
	local  int64  // a producer that is known to be none of ours: the last that was asked for
	hop    ruling // the last that a hop gave, for offsets from hopFrom on
	from   int64
	noHop  int64 // the last replicator's batch that has none: its transaction was aborted
}

// mirrorPart is the part of a partition that is known to have come with a mirror: its
// offsets below until, which is 0 where there is none. While the topic is a mirror
// more may follow, or the first that is not the mirror's.
type mirrorPart struct {
	of    ledger.Life
	until int64
	open  bool
}

func newProvenance(o Origins, id ledger.CopyID, localOnly bool, l *locals) *provenance {
	return &provenance{origins: o, source: id.Source, destination: id.Destination.Life(), localOnly: localOnly, locals: l, local: -1, noHop: -1}
}

// rule answers a question; ok is false if the answer is not known. Without a
// provenance everything is copied.
func (p *provenance) rule(q question) (r ruling, ok bool) {
	if p == nil {
		return ruling{next: math.MaxInt64}, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case q.offset < p.mirror.until:
		if r, ok = p.ruleMirror(q.offset); ok {
			r.next = min(r.next, p.mirror.until)
		}
		return r, ok
	case p.mirror.open:
		return ruling{}, false
	case q.producerID < 0 || q.producerID == p.local:
		return ruling{next: math.MaxInt64}, true
	case p.locals.has(p.source, q.producerID):
		p.local = q.producerID
		return ruling{next: math.MaxInt64}, true
	}
	switch known, plain := p.origins.Replicator(p.source.Cluster, q.producerID); {
	case !known:
		return ruling{}, false
	case q.transactional == plain: // not how the lane writes
		return ruling{next: math.MaxInt64}, true
	case q.decided && q.offset == p.noHop:
		return ruling{next: q.offset + 1}, true
	}
	return p.ruleHop(q.offset, !q.transactional)
}

// ruleMirror decides about what a mirror took over from its source.
func (p *provenance) ruleMirror(offset int64) (ruling, bool) {
	switch {
	case p.whole:
		return p.ruleHop(offset, false)
	case p.mirror.of == p.destination:
		return ruling{skip: ledger.Returned, next: p.mirror.until}, true
	case p.localOnly:
		return ruling{skip: ledger.NotLocal, next: p.mirror.until}, true
	}
	return p.ruleHop(offset, false)
}

// ruleHop decides about what a replicator wrote, plain: without a transaction.
func (p *provenance) ruleHop(offset int64, plain bool) (ruling, bool) {
	if p.from <= offset && offset < p.hop.next {
		return p.hop, true
	}
	o, ok := p.origins.Origin(p.source, offset)
	if !ok {
		// In a transaction there is no data without its hop.
		r := ruling{skip: ledger.Doubled, next: offset + 1}
		if p.whole { // a mirror has what its source has
			r.skip = 0
		}
		return r, plain && p.origins.Stray(p.source, offset)
	}
	r := ruling{next: o.Next}
	switch {
	case !p.whole && o.Route.Through(p.destination):
		r.skip = ledger.Returned
	case p.localOnly:
		r.skip = ledger.NotLocal
	case o.Untraced:
		return ruling{}, false
	default:
		r.route = o.Route
	}
	p.hop, p.from = r, offset
	return r, true
}

// learn takes note of what reading the ledger to its end has shown of a producer of
// the source partition.
func (p *provenance) learn(q question) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.producerID >= 0 && q.offset >= p.mirror.until && !p.mirror.open {
		if known, _ := p.origins.Replicator(p.source.Cluster, q.producerID); !known {
			p.locals.add(p.source, q.producerID)
		}
	}
	if _, ok := p.origins.Origin(p.source, q.offset); !ok && p.whole && q.decided {
		p.noHop = q.offset
	}
}

// undecided says that a question has no answer before a transaction ends.
func (p *provenance) undecided(q question) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known, plain := p.origins.Replicator(p.source.Cluster, q.producerID)
	return !q.decided && q.offset >= p.mirror.until && !p.mirror.open && known && !plain
}

// setMirror says what part of the partition is a mirror.
func (p *provenance) setMirror(m mirrorPart) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mirror != m {
		p.mirror, p.local = m, -1
	}
}

// why says what is missing for an answer.
func (p *provenance) why(q question) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, ok := p.origins.Origin(p.source, q.offset)
	switch {
	case ok && o.Untraced:
		return fmt.Errorf("%w: the batch at offset %d was copied by a version that did not write down where from", errOrigin, q.offset)
	case q.offset < p.mirror.until || p.mirror.open:
		return fmt.Errorf("%w: the batch at offset %d came with the mirror of %s, and no hop tells yet by which way", errOrigin, q.offset, p.mirror.of.TopicID)
	}
	return fmt.Errorf("%w: the batch at offset %d is a replicator's (producer id %d), and no hop tells yet where from", errOrigin, q.offset, q.producerID)
}

// locals remembers producers that are no replicators, by the partition where they
// were met: a producer id may mean another one elsewhere. It is bounded, and forgets
// those that have not been asked for for long. It is safe for concurrent use.
type locals struct {
	mu         sync.Mutex
	young, old map[producerAt]struct{}
}

type producerAt struct {
	topic     ledger.TopicID
	partition int32
	id        int64
}

// maxLocals bounds each of both generations: some five megabytes together.
const maxLocals = 32 << 10

func newLocals() *locals { return &locals{young: map[producerAt]struct{}{}} }

func (l *locals) has(at ledger.End, producerID int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := producerAt{at.TopicID, at.Partition, producerID}
	if _, ok := l.young[key]; ok {
		return true
	}
	_, ok := l.old[key]
	if ok {
		l.put(key)
	}
	return ok
}

func (l *locals) add(at ledger.End, producerID int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(producerAt{at.TopicID, at.Partition, producerID})
}

func (l *locals) put(key producerAt) {
	if len(l.young) >= maxLocals {
		l.young, l.old = map[producerAt]struct{}{}, l.young
	}
	l.young[key] = struct{}{}
}
