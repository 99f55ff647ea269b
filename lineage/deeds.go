package lineage

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/ledger"
)

// DeedQuery picks productions or accesses of the offsets from At.Offset to Last of
// one partition.
type DeedQuery struct {
	At        Address
	Last      int64  // inclusive; below 0 is the end
	Produced  bool   // productions; accesses if not
	Principal string // one's only; needs Describe on the cluster unless it is the caller's own
	Group     string // one's only; needs Describe on it, or on the cluster
	Limit     int    // 0 and above the limit for deeds: that limit
	Cursor    string // DeedPage.Next of the page before
}

// DeedPage is some productions or accesses, in the order of time within the page.
type DeedPage struct {
	Deeds []Deed `json:"deeds"`
	Next  string `json:"next,omitempty" doc:"Cursor of the next page, which may be empty; absent: there are no more"`
	// Unknown lists what cannot be said, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Deeds lists who produced, or who fetched or committed. Errors are those of Event.
func (x *Index) Deeds(ctx context.Context, caller Caller, q DeedQuery) (_ *DeedPage, err error) {
	v := x.viewer(ctx, caller)
	l, err := v.find(q.At)
	if err != nil {
		return nil, fmt.Errorf("accesses: %w", err)
	}
	if q.Principal != "" && !v.everything(l.cluster) && !v.own(l.cluster, q.Principal) {
		return nil, fmt.Errorf("accesses of %s: %w", q.Principal, ErrDenied)
	}
	if q.Group != "" && !v.group(l.cluster, q.Group) {
		return nil, fmt.Errorf("accesses of group %s: %w", q.Group, ErrDenied)
	}
	after, err := v.readCursor(l.cluster, q.Cursor)
	if err != nil {
		return nil, fmt.Errorf("accesses: %w", err)
	}
	run := runQuery{
		kind: kindProduction, topic: l.topicKey, partition: q.At.Partition, first: q.At.Offset, last: q.Last,
		principal: q.Principal, group: q.Group, limit: bounded(q.Limit, x.cfg.Limits.Deeds), after: after,
	}
	store := x.read()
	defer func() { err = errors.Join(err, store.Close()) }()
	list := store.accesses
	if q.Produced {
		list = store.runs
	}
	if run.last < 0 {
		run.last = math.MaxInt64 - 1
	}
	deeds, next, err := list(run)
	if err != nil {
		return nil, fmt.Errorf("accesses: %w", err)
	}
	page := &DeedPage{Deeds: append([]Deed{}, v.show(l.cluster, deeds)...), Next: v.cursor(l.cluster, next)}
	if !x.tells(l.cluster) {
		page.Unknown = append(page.Unknown, "who produces and who reads: the cluster records neither"+x.besides(l.cluster))
	}
	page.Unknown = append(page.Unknown, v.unheard(l.cluster)...)
	return page, nil
}

// PrincipalPage is what one principal or group did to topics of one cluster.
type PrincipalPage struct {
	Topics  []PrincipalTopic `json:"topics"`
	Next    string           `json:"next,omitempty" doc:"Cursor of the next page, which may be empty; absent: there are no more"`
	Unknown []string         `json:"unknown,omitempty"`
}

// PrincipalTopic is what a principal or group did to one topic altogether, by one client. Of
// a topic that the caller may not see there is nothing but that.
type PrincipalTopic struct {
	Redacted    bool   `json:"redacted,omitempty"`
	Topic       string `json:"topic,omitempty"`
	TopicID     string `json:"topicId,omitempty"`
	EarlierLife bool   `json:"earlierLife,omitempty"`
	Client      Client `json:"client"`
}

// Principal lists what a principal did in a cluster, by topic, at most limit of them
// a page: 0 is the limit for deeds. It needs Describe on the cluster unless the
// principal is the caller's own. Errors are those of Event.
func (x *Index) Principal(ctx context.Context, caller Caller, cluster, principal string, limit int, cursor string) (*PrincipalPage, error) {
	if cluster == "" || principal == "" {
		return nil, fmt.Errorf("%w: a cluster and a principal are needed", ErrInvalid)
	}
	v := x.viewer(ctx, caller)
	x.mu.RLock()
	id := x.clusterID(cluster)
	l := x.ledgers[id]
	x.mu.RUnlock()
	if !v.own(id, principal) && !v.everything(id) {
		return nil, fmt.Errorf("accesses of %s in cluster %s: %w", principal, cluster, ErrDenied)
	}
	after, err := v.readCursor(id, cursor)
	if err != nil {
		return nil, fmt.Errorf("accesses: %w", err)
	}
	page := &PrincipalPage{Topics: []PrincipalTopic{}}
	if l == nil || !x.tells(id) {
		page.Unknown = append(page.Unknown, "who produces and who reads: the cluster records neither")
		return page, nil
	}
	page.Unknown = v.unheard(id)
	return page, v.clients(page, id, limit, after, func(c *Client) bool { return c.Principal == principal })
}

// Group lists what a group has read in a cluster, by topic and client, as Principal does. It
// needs Describe on the group, or on the cluster; of the clients' principals it shows those
// that the caller may see.
func (x *Index) Group(ctx context.Context, caller Caller, cluster, group string, limit int, cursor string) (*PrincipalPage, error) {
	if cluster == "" || group == "" {
		return nil, fmt.Errorf("%w: a cluster and a group are needed", ErrInvalid)
	}
	v := x.viewer(ctx, caller)
	x.mu.RLock()
	id := x.clusterID(cluster)
	l := x.ledgers[id]
	x.mu.RUnlock()
	if !v.group(id, group) {
		return nil, fmt.Errorf("accesses of group %s in cluster %s: %w", group, cluster, ErrDenied)
	}
	after, err := v.readCursor(id, cursor)
	if err != nil {
		return nil, fmt.Errorf("accesses: %w", err)
	}
	page := &PrincipalPage{Topics: []PrincipalTopic{}}
	if !x.tells(id) {
		page.Unknown = append(page.Unknown, "who reads: the cluster does not record it"+x.besides(id))
	}
	if l == nil {
		return page, nil
	}
	page.Unknown = append(page.Unknown, v.unheard(id)...)
	return page, v.clients(page, id, limit, after, func(c *Client) bool {
		if c.Group != group {
			return false
		}
		if !v.everything(id) && !v.own(id, c.Principal) {
			c.Principal, c.ClientID, c.Software, c.Address = "", "", "", ""
		}
		return true
	})
}

// group says whether the caller may see what a group of a cluster reads.
func (v *viewer) group(cluster, group string) bool {
	return v.allowed(cluster, acl.Group, group) || v.everything(cluster)
}

// besides says from what something is known of a cluster that records nothing.
func (x *Index) besides(cluster string) string {
	if _, watched := x.recorded(cluster, kindProgress); !watched {
		return ""
	}
	return "; what groups have read is known from their committed offsets only"
}

// clients fills a page with what clients that are wanted did to the topics of a cluster,
// which has a ledger.
func (v *viewer) clients(page *PrincipalPage, id string, limit int, after []byte, wanted func(*Client) bool) error {
	x := v.x
	x.mu.RLock()
	l := x.ledgers[id]
	x.mu.RUnlock()
	limit = bounded(limit, x.cfg.Limits.Deeds)
	prefix, looked, last := key(l.no, kindClient), 0, []byte(nil)
	err := x.scanFrom(prefix, after, func(k, val []byte) error {
		if looked == maxScan || len(page.Topics) == limit {
			page.Next = v.cursor(id, last)
			return errEnough
		}
		looked++
		rest := k[len(prefix):]
		last = append(last[:0], rest...)
		if len(rest) < 17 {
			return errStored
		}
		c, err := clientOf(rest[16:], val)
		if err != nil || !wanted(&c) {
			return err
		}
		x.mu.RLock()
		t := x.life(topicKey{id, ledger.TopicID(rest[:16])})
		x.mu.RUnlock()
		if !v.topic(t) {
			page.Topics = append(page.Topics, PrincipalTopic{Redacted: true, Client: Client{Redacted: true, Kind: c.Kind, Basis: c.Basis, FirstAt: c.FirstAt, At: c.At}})
			return nil
		}
		page.Topics = append(page.Topics, PrincipalTopic{Topic: t.name, TopicID: t.id.String(), EarlierLife: t.earlier, Client: c})
		return v.ctx.Err()
	})
	if err != nil && !errors.Is(err, errEnough) {
		return fmt.Errorf("accesses by topic: %w", err)
	}
	return nil
}

// clientOf reads a stored sum, of which k is the key from the kind on.
func clientOf(k, v []byte) (Client, error) {
	var sum clientSum
	c := Client{Kind: produced}
	if kind := ledger.AccessKind(k[0]); kind != 0 {
		c.Kind = kind.String()
	}
	if err := errors.Join(readStrings(k[1:], &c.Group, &c.Principal, &c.ClientID), sum.decode(v)); err != nil {
		return Client{}, err
	}
	if c.Kind == ledger.Committed.String() && c.Principal == "" { // a broker knows who commits
		c.Basis = basisCommitted
	}
	c.Software, c.Address, c.Offsets = sum.software, sum.address, sum.offsets
	c.FirstAt, c.At = millis(sum.firstAt), millis(sum.lastAt)
	return c, nil
}

func bounded(asked, most int) int {
	if asked <= 0 || asked > most {
		return most
	}
	return asked
}
