package lineage

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

// readers finds who reads the topics that the caller may see: by what the clusters
// have recorded, and by where groups have committed.
func (r *reach) readers() error {
	r.found.Readers = []Reader{}
	groups := r.committed()
	for i := range r.topics {
		t := &r.topics[i]
		if t.hidden {
			continue
		}
		deeds := r.x.cfg.Limits.Deeds
		list := &readerList{topic: i, limit: min(deeds, maxReaders*deeds-len(r.found.Readers))}
		if !r.x.tells(t.life.cluster) {
			r.found.Unknown = append(r.found.Unknown, fmt.Sprintf("who has read in cluster %s: it does not record it%s", t.life.clusterName, r.x.besides(t.life.cluster)))
		}
		for _, why := range r.unheard(t.life.cluster) {
			r.found.Unknown = append(r.found.Unknown, fmt.Sprintf("cluster %s: %s", t.life.clusterName, why))
		}
		if err := r.recorded(t, list); err != nil {
			return err
		}
		switch of := groups[t.life.cluster]; {
		case t.life.earlier:
		case of.err != nil:
			r.found.Unknown = append(r.found.Unknown, fmt.Sprintf("groups of cluster %s: %v", t.life.clusterName, of.err))
		case of.more != "":
			r.found.Unknown = append(r.found.Unknown, fmt.Sprintf("groups of cluster %s: %s", t.life.clusterName, of.more))
			fallthrough
		default:
			for _, g := range of.at {
				if g.At.Topic == t.life.name {
					r.position(t, &g, list)
				}
			}
		}
		if list.full {
			r.cut(fmt.Sprintf("after %d readers of a topic, %d together", deeds, maxReaders*deeds))
		}
		if list.unheard {
			r.cut(fmt.Sprintf("after %d entries of who has read a topic or partition, %d together", maxScan, maxHeard))
		}
		r.showReaders(t, list)
	}
	return nil
}

const (
	// maxReaders is how many times the limit for deeds all topics together may have readers.
	maxReaders = 4
	// maxHeard is at how many entries, of who has read, an answer looks altogether.
	maxHeard = 4 * maxScan
)

// readerList is the readers of one topic, each once.
type readerList struct {
	topic, limit int
	all          []Reader
	full         bool
	unheard      bool // there are entries that were not looked at
}

// add notes a reader, or more of what is known of one.
func (l *readerList) add(n Reader, basis string) {
	same := slices.IndexFunc(l.all, func(h Reader) bool {
		if basis == basisCommitted { // nobody says by which client
			return h.Group == n.Group && h.Kind == n.Kind
		}
		return h.Group == n.Group && h.Kind == n.Kind && h.Principal == n.Principal && h.ClientID == n.ClientID
	})
	if same < 0 {
		if len(l.all) == l.limit {
			l.full = true
			return
		}
		n.Topic, n.Basis = l.topic, []string{basis}
		l.all = append(l.all, n)
		return
	}
	h := &l.all[same]
	if !slices.Contains(h.Basis, basis) {
		h.Basis = append(h.Basis, basis)
	}
	if h.Reached = h.Reached || n.Reached; n.At != nil && (h.At == nil || n.At.After(*h.At)) {
		h.At = n.At
	}
}

// recorded finds those that a ledger names: first who has read by what the cluster has
// recorded, then the groups that nodes saw commit where it has not.
func (r *reach) recorded(t *reached, list *readerList) error {
	r.x.mu.RLock()
	l := r.x.ledgers[t.life.cluster]
	r.x.mu.RUnlock()
	switch {
	case l == nil:
		return nil
	case t.partitions == nil:
		return r.clientsOf(t, l.no, list)
	}
	if err := r.accessesOf(t, kindAccess, list); err != nil {
		return err
	}
	return r.accessesOf(t, kindProgress, list)
}

// clientsOf are all that the ledger of the topic's cluster says to read it.
func (r *reach) clientsOf(t *reached, no ledgerNo, list *readerList) error {
	prefix, looked := key(no, kindClient, t.life.id[:]), 0
	var seen []Client // by their commits
	// Those who produced have kind 0, and come before all others.
	err := r.x.scanFrom(prefix, []byte{0, 0xff}, func(k, v []byte) error {
		if looked == maxScan || r.heard == maxHeard || list.full {
			list.unheard = !list.full
			return errEnough
		}
		looked, r.heard = looked+1, r.heard+1
		c, err := clientOf(k[len(prefix):], v)
		switch {
		case err != nil || c.Kind == produced:
			return err
		case c.Basis == basisCommitted:
			seen = append(seen, c)
		default:
			list.add(Reader{Kind: c.Kind, Group: c.Group, Principal: c.Principal, ClientID: c.ClientID, At: &c.At, Reached: true}, basisAccesses)
		}
		return r.ctx.Err()
	})
	for _, c := range seen {
		list.add(Reader{Kind: c.Kind, Group: c.Group, At: &c.At, Reached: c.Offsets > 0}, basisCommitted)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// accessesOf are those of whom there are entries of a kind about any of the offsets.
func (r *reach) accessesOf(t *reached, kind keyKind, list *readerList) (err error) {
	reading := r.x.read()
	defer func() { err = errors.Join(err, reading.Close()) }()
	for p, has := range t.partitions {
		hull := span{0, math.MaxInt64}
		if has != nil {
			if hull = has.hull(); hull.empty() {
				continue
			}
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if r.heard == maxHeard {
			list.unheard = true
			return nil
		}
		q := runQuery{kind: kind, topic: t.life.topicKey, partition: p, first: hull.first, last: hull.next - 1, limit: min(maxScan, maxHeard-r.heard)}
		deeds, more, err := reading.runs(q)
		if err != nil {
			return err
		}
		r.heard += len(deeds)
		list.unheard = list.unheard || more != nil
		for _, d := range deeds {
			switch {
			case has != nil && !has.touch(d.First, d.Last):
			case d.Basis == basisCommitted: // with no offsets no reading is known
				list.add(Reader{Kind: ledger.Committed.String(), Group: d.Group, At: &d.At, Reached: d.Offsets > 0}, basisCommitted)
			default:
				list.add(Reader{Kind: d.Kind, Group: d.Group, Principal: d.Principal, ClientID: d.ClientID, At: &d.At, Reached: true}, basisAccesses)
			}
		}
	}
	return nil
}

// position notes a group that has committed in one of the partitions.
func (r *reach) position(t *reached, g *GroupPosition, list *readerList) {
	reader := Reader{Kind: ledger.Committed.String(), Group: g.Group, Reached: g.Next > 0}
	if t.partitions != nil {
		has, ok := t.partitions[g.At.Partition]
		if !ok || has != nil && len(has) == 0 {
			return
		}
		if has != nil {
			reader.Reached = g.Next > has[0].first
		}
	}
	list.add(reader, basisCommitted)
}

// showReaders takes out of the readers of a topic what the caller may not see. What
// is redacted comes last, so that the order tells nothing of it.
func (r *reach) showReaders(t *reached, list *readerList) {
	cluster := t.life.cluster
	for i, n := range list.all {
		switch {
		case r.everything(cluster), r.own(cluster, n.Principal):
		case n.Principal == "" && n.Group != "" && r.allowed(cluster, acl.Group, n.Group):
		default:
			list.all[i] = Reader{Topic: n.Topic, Redacted: true, Basis: n.Basis, Kind: n.Kind, At: n.At, Reached: n.Reached}
		}
	}
	slices.SortStableFunc(list.all, func(a, b Reader) int {
		redacted := 0
		if a.Redacted != b.Redacted {
			redacted = 1
			if b.Redacted {
				redacted = -1
			}
		}
		return cmp.Or(redacted, strings.Compare(a.Kind, b.Kind), strings.Compare(a.Group, b.Group), strings.Compare(a.Principal, b.Principal),
			strings.Compare(a.ClientID, b.ClientID), instant(a.At).Compare(instant(b.At)))
	})
	r.found.Readers = append(r.found.Readers, list.all...)
}

func instant(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return *at
}
