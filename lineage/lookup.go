package lineage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

// copiesAt are the copies out of and into a partition, as they are now.
func (x *Index) copiesAt(e ledger.End) (from, into []copyState) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return sortedCopies(x.from[e]), sortedCopies(x.into[e])
}

// sortedCopies are copies by value, in the order of their destinations' and then
// their sources' names.
func sortedCopies(cs []*copyState) []copyState {
	out := make([]copyState, 0, len(cs))
	for _, c := range cs {
		out = append(out, *c)
	}
	slices.SortStableFunc(out, func(a, b copyState) int {
		return cmp.Or(
			cmp.Compare(a.begin.DestinationCluster, b.begin.DestinationCluster), cmp.Compare(a.begin.DestinationTopic, b.begin.DestinationTopic),
			cmp.Compare(a.begin.SourceCluster, b.begin.SourceCluster), cmp.Compare(a.begin.SourceTopic, b.begin.SourceTopic),
			slices.Compare(a.key[:], b.key[:]))
	})
	return out
}

// hopBySource is the hop of a copy that holds a source offset, nil if none does.
func (x *Index) hopBySource(c *copyState, offset int64) (*ledger.Hop, error) {
	prefix := key(c.ledger, kindHop, c.key[:])
	_, v, err := x.floor(prefix, offset)
	if err != nil || v == nil {
		return nil, err
	}
	e, err := ledger.ReadEntry(v)
	if err != nil {
		return nil, fmt.Errorf("read hop: %w", err)
	}
	if h, ok := e.(*ledger.Hop); ok && offset < h.Next {
		return h, nil
	}
	return nil, nil
}

// hopByDest is the hop of a copy that wrote a destination offset, and the source
// offset that went there; nil if none did.
func (x *Index) hopByDest(c *copyState, offset int64) (*ledger.Hop, int64, error) {
	_, v, err := x.floor(key(c.ledger, kindByDest, c.key[:]), offset)
	if err != nil || v == nil {
		return nil, 0, err
	}
	h, err := readBack[*ledger.Hop](x.db.Get(key(c.ledger, kindHop, c.key[:], v)))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, 0, nil // taken back in between
	}
	if err != nil {
		return nil, 0, err
	}
	for _, r := range h.Runs {
		if r.Destination <= offset && offset < r.Destination+r.Count {
			return h, r.Source + offset - r.Destination, nil
		}
	}
	return nil, 0, nil
}

// lostAtSource says that a copy wrote a destination offset of which its source lost the
// record later.
func (x *Index) lostAtSource(c *copyState, offset int64) (bool, error) {
	_, v, err := x.floor(key(c.ledger, kindLost, c.key[:]), offset)
	if err != nil || v == nil {
		return false, err
	}
	e, err := ledger.ReadEntry(v)
	if err != nil {
		return false, fmt.Errorf("read hop: %w", err)
	}
	h, ok := e.(*ledger.Hop)
	return ok && slices.ContainsFunc(h.Runs, func(r ledger.Run) bool {
		return r.Destination <= offset && offset < r.Destination+r.Count
	}), nil
}

// floor is the last key with a prefix whose number is at most n.
func (x *Index) floor(prefix []byte, n int64) (k, v []byte, err error) {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, nil, fmt.Errorf("read store: %w", err)
	}
	if it.SeekLT(append(append([]byte(nil), prefix...), u64(n+1)...)) {
		k, v = bytes.Clone(it.Key()), bytes.Clone(it.Value())
	}
	if err := it.Close(); err != nil {
		return nil, nil, fmt.Errorf("read store: %w", err)
	}
	return k, v, nil
}

// runQuery picks productions or accesses of a partition.
type runQuery struct {
	kind        keyKind
	topic       topicKey
	partition   int32
	first, last int64  // touching these offsets
	principal   string // one's only, if given
	group       string // the same
	limit       int
	after       []byte // where the page before ended
}

// maxScan bounds what one page of an answer makes the store look at, however little
// of it is what was asked for.
const maxScan = 50_000

// runs are those that a query is for, in order of time, at most its limit; next is
// behind where it stopped looking, nil if there are no others.
func (x *Index) runs(q runQuery) (deeds []Deed, next []byte, err error) {
	l, has := x.recorded(q.topic.cluster, q.kind)
	if !has {
		return nil, nil, nil
	}
	prefix := key(l.no, q.kind, q.topic.id[:], u32(q.partition))
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, nil, fmt.Errorf("read store: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	defer func() { inOrder(deeds) }()
	done := slices.Concat(prefix, q.after) // all up to it was given
	looked, last := 0, []byte(nil)
	for ok := it.SeekGE(done); ok; {
		// The next level that has anything, from where it can touch first on.
		lv := it.Key()[len(prefix)]
		from := slices.Concat(prefix, []byte{lv}, u64(max(0, q.first-int64(1)<<lv+1)))
		if bytes.Compare(from, done) < 0 {
			from = done
		}
		for ok = it.SeekGE(from); ok && it.Key()[len(prefix)] == lv; ok = it.Next() {
			if len(q.after) > 0 && bytes.Equal(it.Key(), done) {
				continue
			}
			e, err := ledger.ReadEntry(it.Value())
			if err != nil {
				return nil, nil, fmt.Errorf("read store: %w", err)
			}
			d, begin, touches := deed(e, q.first, q.last)
			if begin > q.last {
				break
			}
			wanted := touches && (q.principal == "" || d.Principal == q.principal) && (q.group == "" || d.Group == q.group)
			if looked == maxScan || wanted && len(deeds) == q.limit {
				return deeds, last, nil
			}
			looked++
			last = append(last[:0], it.Key()[len(prefix):]...)
			if wanted {
				deeds = append(deeds, d)
			}
		}
		if lv == 255 {
			break
		}
		ok = it.SeekGE(slices.Concat(prefix, []byte{lv + 1}))
	}
	return deeds, nil, nil
}

// behindAccesses begins where a page of accesses ended that is in the progress of groups. A
// level is less.
const behindAccesses = 0xff

// accesses are those that a query is for: what the cluster has recorded, and then how the
// groups went on of which it does not.
func (x *Index) accesses(q runQuery) (deeds []Deed, next []byte, err error) {
	q.kind = kindAccess
	if len(q.after) == 0 || q.after[0] != behindAccesses {
		if deeds, next, err = x.runs(q); err != nil || next != nil {
			return deeds, next, err
		}
		q.after = []byte{behindAccesses}
	}
	if len(deeds) == q.limit {
		return deeds, []byte{behindAccesses}, nil
	}
	q.kind, q.after, q.limit = kindProgress, q.after[1:], q.limit-len(deeds)
	more, next, err := x.runs(q)
	if next != nil {
		next = append([]byte{behindAccesses}, next...)
	}
	deeds = append(deeds, more...)
	inOrder(deeds)
	return deeds, next, err
}

func inOrder(deeds []Deed) {
	slices.SortStableFunc(deeds, func(a, b Deed) int { return cmp.Or(a.FirstAt.Compare(b.FirstAt), cmp.Compare(a.First, b.First)) })
}

// deed is what an entry says of the offsets from first to last, if anything, and
// where the entry begins.
func deed(e ledger.Entry, first, last int64) (d Deed, from int64, ok bool) {
	var place ledger.Place
	var client ledger.Client
	switch e := e.(type) {
	case *ledger.Production:
		place, client = e.Place, e.Client
		d = Deed{Kind: produced, FirstAt: e.FirstAt, At: e.At}
	case *ledger.Access:
		place, client = e.Place, e.Client
		d = Deed{Kind: e.Kind.String(), Group: e.Group, FirstAt: e.FirstAt, At: e.At}
	case *ledger.Progress:
		place = e.Place
		d = Deed{Kind: e.Kind.String(), Group: e.Group, Basis: basisCommitted, FirstAt: e.FirstAt, At: e.At}
	}
	touching, ok := place.Touching(first, last)
	d.Principal, d.ClientID, d.Software, d.Address = client.Principal, client.ClientID, client.Software, client.Address
	d.Partition, d.First, d.Last, d.Offsets = touching.Partition, touching.First, touching.Last, touching.Offsets()
	if e, moved := e.(*ledger.Progress); moved && e.Kind != ledger.Advanced {
		d.Offsets = 0 // none of them is known to be read
	}
	return d, place.First, ok
}

const produced = "produced"

// show takes out of deeds at a cluster what the caller may not see.
func (v *viewer) show(cluster string, deeds []Deed) []Deed {
	if len(deeds) == 0 || v.everything(cluster) {
		return deeds
	}
	for i, d := range deeds {
		ownGroup := d.Basis == basisCommitted && v.allowed(cluster, acl.Group, d.Group)
		if !ownGroup && !v.own(cluster, d.Principal) {
			deeds[i] = Deed{Redacted: true, Kind: d.Kind, Basis: d.Basis, Partition: d.Partition, First: d.First, Last: d.Last, Offsets: d.Offsets, FirstAt: d.FirstAt, At: d.At}
		}
	}
	return deeds
}

// recorded is the ledger of a cluster, and whether it has any entries of a kind of deeds:
// most queries meet clusters that have none, which looking in the store costs more to find.
func (x *Index) recorded(cluster string, kind keyKind) (l *ledgerState, has bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if l = x.ledgers[cluster]; l == nil {
		return nil, false
	}
	if kind == kindProgress {
		return l, l.watched
	}
	return l, l.tells
}

// tells says whether a cluster's ledger records productions and accesses.
func (x *Index) tells(cluster string) bool {
	_, tells := x.recorded(cluster, kindAccess)
	return tells
}
