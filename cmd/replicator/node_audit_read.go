package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/cmd/replicator/journal"
)

// auditCursor is how far each half of the trail has been read.
type auditCursor struct {
	Fleet uint64            `json:"fleet,omitempty"`
	Nodes map[string]uint64 `json:"nodes,omitempty"`
}

func (c auditCursor) encode() string {
	b, err := json.Marshal(c)
	if err != nil {
		return "" // it holds numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func decodeCursor(s string) (c auditCursor, err error) {
	if s == "" {
		return c, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, api.Errorf(http.StatusBadRequest, "cursor %q is not one that this API has given", s).WithHint("pass the page's next on as it is, or begin without")
	}
	return c, nil
}

// ownEntries are entries of one node, the first ones that match.
type ownEntries struct {
	Entries []api.AuditEntry  `json:"entries"`
	Full    bool              `json:"full"` // there may be more
	Damage  []api.AuditDamage `json:"damage,omitempty"`
}

// Entries implements api.Audit: it reads this node's copy of the accepted changes,
// and asks every node for its own half.
func (a *audits) Entries(ctx context.Context, q api.AuditQuery) (api.AuditPage, error) {
	cursor, err := decodeCursor(q.Cursor)
	if err != nil {
		return api.AuditPage{}, err
	}
	halves := map[string]ownEntries{} // by node; "" is the fleet's
	var page api.AuditPage
	if q.Source != auditNode {
		if halves[""], err = a.changeEntries(q, cursor.Fleet); err != nil {
			return api.AuditPage{}, err
		}
	}
	if q.Source != auditFleet {
		page.Missing = a.askAll(ctx, q, cursor, halves)
	}
	for _, name := range sortedNames(halves) {
		page.Damage = append(page.Damage, halves[name].Damage...)
	}
	page.Entries, page.Next = mergeHalves(halves, q.Limit, cursor)
	return page, nil
}

// askAll fills in the halves of all nodes, and says who does not answer.
func (a *audits) askAll(ctx context.Context, q api.AuditQuery, cursor auditCursor, halves map[string]ownEntries) (missing []api.AuditAbsent) {
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, name := range sortedNames(a.fleet.State().Members) {
		asking.Go(func() {
			var own ownEntries
			var err error
			if name == a.name {
				own, err = a.ownEntries(q, cursor.Nodes[name])
			} else {
				err = a.ask(ctx, name, peerAuditOwn, encodeAuditQuery(q, cursor.Nodes[name]), &own)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missing = append(missing, api.AuditAbsent{Node: name, Reason: err.Error()})
				return
			}
			halves[name] = own
		})
	}
	asking.Wait()
	slices.SortStableFunc(missing, func(x, y api.AuditAbsent) int { return cmp.Compare(x.Node, y.Node) })
	return missing
}

// mergeHalves takes the oldest entries of all halves, each in its own order, and
// says where the next page begins, "" if there is nothing more.
func mergeHalves(halves map[string]ownEntries, limit int, cursor auditCursor) (entries []api.AuditEntry, next string) {
	heads := map[string]int{}
	names := sortedNames(halves)
	at := auditCursor{Fleet: cursor.Fleet, Nodes: map[string]uint64{}}
	for name, seq := range cursor.Nodes {
		at.Nodes[name] = seq // those that did not answer too
	}
	for len(entries) < limit {
		from, found := "", false
		for _, name := range names {
			if rest := halves[name].Entries[heads[name]:]; len(rest) > 0 && (!found || rest[0].Time.Before(halves[from].Entries[heads[from]].Time)) {
				from, found = name, true
			}
		}
		if !found {
			break
		}
		e := halves[from].Entries[heads[from]]
		entries = append(entries, e)
		heads[from]++
		if from == "" {
			at.Fleet = e.Seq
		} else {
			at.Nodes[from] = e.Seq
		}
		if heads[from] == len(halves[from].Entries) && halves[from].Full {
			return entries, at.encode() // what comes behind might be older than the others' next
		}
	}
	for _, name := range names {
		if heads[name] < len(halves[name].Entries) || halves[name].Full {
			return entries, at.encode()
		}
	}
	return entries, ""
}

// changeEntries reads the fleet's half, and looks whether each record follows the
// one before and the last ones are those of the state.
func (a *audits) changeEntries(q api.AuditQuery, after uint64) (got ownEntries, err error) {
	trail := map[uint64]string{}
	for _, r := range a.fleet.State().Trail {
		trail[r.Seq] = r.Chain
	}
	var last *cluster.Record
	damage, err := a.changes.Read(after, func(e journal.Entry) bool {
		var r cluster.Record
		if json.Unmarshal(e.Value, &r) != nil {
			got.Damage = append(got.Damage, api.AuditDamage{Node: a.name, File: auditFleet, Reason: fmt.Sprintf("entry %d is not a record of a change", e.Seq)})
			return true
		}
		switch {
		case last != nil && r.Seq != last.Seq+1:
			got.Damage = append(got.Damage, api.AuditDamage{Node: a.name, File: auditFleet, Reason: fmt.Sprintf("changes %d to %d are missing: this node did not get them", last.Seq+1, r.Seq-1)})
		case last != nil && !r.Follows(last), trail[r.Seq] != "" && trail[r.Seq] != r.Chain:
			got.Damage = append(got.Damage, api.AuditDamage{Node: a.name, File: auditFleet, Reason: fmt.Sprintf("change %d is not the one that the fleet agreed on: compare with another node", r.Seq)})
		}
		last = &r
		entry := entryOf(r)
		if matches(q, &entry) {
			got.Entries = append(got.Entries, entry)
		}
		got.Full = len(got.Entries) >= q.Limit
		return !got.Full
	})
	got.Damage = append(got.Damage, a.damage(auditFleet, damage)...)
	return got, err
}

// entryOf is a change in the form of all entries.
func entryOf(r cluster.Record) api.AuditEntry {
	e := api.AuditEntry{
		Time: r.Time, Node: r.Node, User: r.User, Role: api.Role(r.Role), Address: r.Address, Operation: r.Operation, Target: r.Target, Reason: r.Reason,
		Status: http.StatusOK, Revision: r.Revision, More: r.More, Source: auditFleet, Seq: r.Seq,
	}
	for _, o := range r.Objects {
		e.Objects = append(e.Objects, api.AuditChange{Key: o.Key, Action: o.Action, Before: o.Before, After: o.After, Diff: o.Diff})
	}
	return e
}

// ownEntries reads this node's half.
func (a *audits) ownEntries(q api.AuditQuery, after uint64) (got ownEntries, err error) {
	damage, err := a.own.Read(after, func(e journal.Entry) bool {
		var entry api.AuditEntry
		if json.Unmarshal(e.Value, &entry) == nil && matches(q, &entry) {
			entry.Seq = e.Seq
			got.Entries = append(got.Entries, entry)
		}
		got.Full = len(got.Entries) >= q.Limit
		return !got.Full
	})
	got.Damage = a.damage(auditNode, damage)
	return got, err
}

func (a *audits) damage(half string, found []journal.Damage) (all []api.AuditDamage) {
	for _, d := range found {
		all = append(all, api.AuditDamage{Node: a.name, File: half + "/" + d.File, Line: d.Line, Reason: d.Reason})
	}
	return all
}

func encodeAuditQuery(q api.AuditQuery, after uint64) url.Values {
	v := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(q.Limit)}}
	for name, value := range map[string]string{"user": q.User, "object": q.Object, "operation": q.Operation} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			v.Set(name, t.Format(time.RFC3339Nano))
		}
	}
	return v
}

func decodeAuditQuery(v url.Values) (q api.AuditQuery, after uint64, err error) {
	q = api.AuditQuery{User: v.Get("user"), Object: v.Get("object"), Operation: v.Get("operation")}
	if after, err = strconv.ParseUint(v.Get("after"), 10, 64); err != nil {
		return q, 0, fmt.Errorf("after: %w", err)
	}
	if q.Limit, err = strconv.Atoi(v.Get("limit")); err != nil || q.Limit < 1 || q.Limit > peerAuditPage {
		return q, 0, fmt.Errorf("limit %q: %w", v.Get("limit"), cmp.Or(err, strconv.ErrRange))
	}
	for name, to := range map[string]*time.Time{"since": &q.Since, "until": &q.Until} {
		if text := v.Get(name); text != "" {
			if *to, err = time.Parse(time.RFC3339Nano, text); err != nil {
				return q, 0, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return q, after, nil
}
