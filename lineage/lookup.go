package lineage

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

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
func (r *reading) runs(q runQuery) (deeds []Deed, next []byte, err error) {
	l, has := r.x.recorded(q.topic.cluster, q.kind)
	if !has {
		return nil, nil, nil
	}
	it, err := r.iterator()
	if err != nil {
		return nil, nil, err
	}
	defer func() { inOrder(deeds) }()
	prefix := key(l.no, q.kind, q.topic.id[:], u32(q.partition))
	within := func() bool { return it.Valid() && bytes.HasPrefix(it.Key(), prefix) }
	done := slices.Concat(prefix, q.after) // all up to it was given
	looked, last := 0, []byte(nil)
	for it.SeekGE(done); within(); {
		// The next level that has anything, from where it can touch first on.
		lv := it.Key()[len(prefix)]
		from := slices.Concat(prefix, []byte{lv}, u64(max(0, q.first-int64(1)<<lv+1)))
		if bytes.Compare(from, done) < 0 {
			from = done
		}
		for it.SeekGE(from); within() && it.Key()[len(prefix)] == lv; it.Next() {
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
		it.SeekGE(slices.Concat(prefix, []byte{lv + 1}))
	}
	if err := it.Error(); err != nil {
		return nil, nil, fmt.Errorf("read store: %w", err)
	}
	return deeds, nil, nil
}

// behindAccesses begins where a page of accesses ended that is in the progress of groups. A
// level is less.
const behindAccesses = 0xff

// accesses are those that a query is for: what the cluster has recorded, and then how the
// groups went on of which it does not.
func (r *reading) accesses(q runQuery) (deeds []Deed, next []byte, err error) {
	q.kind = kindAccess
	if len(q.after) == 0 || q.after[0] != behindAccesses {
		if deeds, next, err = r.runs(q); err != nil || next != nil {
			return deeds, next, err
		}
		q.after = []byte{behindAccesses}
	}
	if len(deeds) == q.limit {
		return deeds, []byte{behindAccesses}, nil
	}
	q.kind, q.after, q.limit = kindProgress, q.after[1:], q.limit-len(deeds)
	more, next, err := r.runs(q)
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
