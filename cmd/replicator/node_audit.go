package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/cmd/replicator/journal"
)

// The audit trail has two halves. Accepted changes come with the replicated
// commands that make them: every node writes the same ones to its journal "fleet",
// and asks the others for those that it has missed. What a node alone knows, above
// all whom it has refused, is in its journal "node".
const (
	auditFleet = "fleet"
	auditNode  = "node"
)

// Bounds of the journals: a record has 300 bytes as a rule, so the fleet's hold a
// million changes.
const (
	auditSegment   = 4 << 20
	auditFleetMost = 256 << 20
	auditNodeMost  = 64 << 20
)

// auditQueue is how many entries may wait for the disk.
const auditQueue = 1024

// audits answers api.Audit and writes the journals.
type audits struct {
	name  string
	fleet *cluster.Node
	log   *slog.Logger

	changes *journal.Journal // cluster.Records
	own     *journal.Journal // api.AuditEntries

	queue chan api.AuditEntry

	mu      sync.Mutex
	limiter limiter
}

var _ api.Audit = (*audits)(nil)

// auditDir is the folder of the node's journals.
func auditDir(f nodeFile) string { return filepath.Join(f.DataDir, "audit") }

// setChangesAside renames the fleet's journal, and says to what; a journal that is
// not there leaves nothing to do. A restored fleet numbers its changes on from the
// backup's: beside what the old one did after it they would look altered.
func setChangesAside(dir string, now time.Time) (string, error) {
	at := filepath.Join(dir, auditFleet)
	aside := at + ".before-restore-" + now.UTC().Format("20060102T150405.000")
	err := os.Rename(at, aside)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return aside, nil
}

func openAudits(dir, name string, fleet *cluster.Node, log *slog.Logger) (*audits, error) {
	changes, err := journal.Open(journal.Config{Dir: filepath.Join(dir, auditFleet), SegmentBytes: auditSegment, MaxBytes: auditFleetMost})
	if err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	own, err := journal.Open(journal.Config{Dir: filepath.Join(dir, auditNode), SegmentBytes: auditSegment, MaxBytes: auditNodeMost})
	if err != nil {
		return nil, fmt.Errorf("audit trail: %w", err)
	}
	return &audits{name: name, fleet: fleet, log: log, changes: changes, own: own, queue: make(chan api.AuditEntry, auditQueue)}, nil
}

// Note implements api.Audit.
func (a *audits) Note(e api.AuditEntry) {
	e.Node, e.Source = a.name, auditNode
	a.mu.Lock()
	suppressed, keep := a.limiter.admit(e, time.Now())
	a.mu.Unlock()
	if !keep {
		return
	}
	e.Suppressed = suppressed
	select {
	case a.queue <- e:
	default: // the disk does not keep up
		a.mu.Lock()
		a.limiter.putBack(e)
		a.mu.Unlock()
	}
}

// noteRefusedJoin notes a node that has shown a join token in vain.
func (a *audits) noteRefusedJoin(by cluster.Author, why error) {
	a.Note(api.AuditEntry{
		Time: by.Time, User: by.User, Address: by.Address, Operation: by.Operation, Target: by.Target,
		Status: http.StatusForbidden, Problem: why.Error(),
	})
}

// run writes until ctx ends, then what is still waiting.
func (a *audits) run(ctx context.Context) error {
	var writing sync.WaitGroup
	writing.Go(func() { a.follow(ctx) })
	defer writing.Wait()
	for {
		select {
		case e := <-a.queue:
			a.write(e)
		case <-ctx.Done():
			for {
				select {
				case e := <-a.queue:
					a.write(e)
				default:
					return nil
				}
			}
		}
	}
}

// write puts one entry, and those that wait behind it, on disk.
func (a *audits) write(first api.AuditEntry) {
	batch := []api.AuditEntry{first}
	for more := true; more && len(batch) < auditQueue; {
		select {
		case e := <-a.queue:
			batch = append(batch, e)
		default:
			more = false
		}
	}
	seq := a.own.Last()
	entries := make([]journal.Entry, 0, len(batch))
	for _, e := range batch {
		seq++
		e.Seq = seq
		b, err := json.Marshal(e)
		if err != nil || len(b) > journal.MaxEntry {
			a.log.Error("audit entry is lost", "operation", e.Operation, "user", e.User, "bytes", len(b), "error", err)
			continue
		}
		entries = append(entries, journal.Entry{Seq: seq, Value: b})
	}
	if err := a.own.Append(entries...); err != nil {
		a.log.Error("audit entries are lost", "entries", len(entries), "error", err)
	}
}

// follow writes accepted changes down as the state brings them.
func (a *audits) follow(ctx context.Context) {
	retry := time.NewTicker(auditRetry)
	defer retry.Stop()
	states := a.fleet.Watch(ctx)
	for _, s := range states {
		for err := a.catchUp(ctx, s); err != nil; err = a.catchUp(ctx, a.fleet.State()) {
			a.log.Error("accepted changes are not in this node's audit trail yet", "error", err)
			select {
			case <-retry.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// auditRetry is between tries to write to a disk that is full, say.
const auditRetry = 5 * time.Second

// catchUp writes what the state knows and the journal does not. What the state
// has no more, other nodes may have.
func (a *audits) catchUp(ctx context.Context, s *cluster.State) error {
	records, whole := s.TrailAfter(a.changes.Last())
	if len(records) == 0 {
		return nil
	}
	if !whole {
		if err := a.append(a.missed(ctx, s, records[0])); err != nil {
			return err
		}
	}
	return a.append(records)
}

func (a *audits) append(records []cluster.Record) error {
	entries := make([]journal.Entry, 0, len(records))
	for _, r := range records {
		b, err := json.Marshal(r)
		if err != nil {
			return err
		}
		entries = append(entries, journal.Entry{Seq: r.Seq, Value: b})
	}
	return a.changes.Append(entries...)
}

// missed asks the other nodes for the records before one. It takes them only if
// they are chained to it.
func (a *audits) missed(ctx context.Context, s *cluster.State, before cluster.Record) []cluster.Record {
	after, last := a.changes.Last(), a.newest()
	var best []cluster.Record
	for _, name := range sortedNames(s.Members) {
		if name == a.name {
			continue
		}
		got, err := changesFrom(after, before.Seq, func(after uint64) (page []cluster.Record, err error) {
			err = a.ask(ctx, name, peerAuditChanges, url.Values{"after": {strconv.FormatUint(after, 10)}}, &page)
			return page, err
		})
		if err != nil {
			a.log.Warn("a node was not asked for all of the audit trail that this one has missed", "peer", name, "error", err)
		}
		if got = chainedTo(last, got, before); len(got) > len(best) {
			best = got
		}
		if len(best) > 0 && best[0].Seq == after+1 {
			break // nobody has more
		}
	}
	if len(best) == 0 || best[0].Seq != after+1 {
		a.log.Warn("accepted changes are missing in this node's audit trail, and no other node that answers has them", "after", after, "before", before.Seq)
	}
	return best
}

// changesFrom returns the records after one and before another, which come in pages;
// with an error those that have come until then.
func changesFrom(after, before uint64, ask func(after uint64) ([]cluster.Record, error)) (got []cluster.Record, err error) {
	for after+1 < before {
		page, err := ask(after)
		if err != nil {
			return got, err
		}
		for _, r := range page {
			if r.Seq < before {
				got = append(got, r)
			}
		}
		if len(page) == 0 {
			return got, nil
		}
		last := page[len(page)-1].Seq
		if last <= after {
			return got, fmt.Errorf("it was asked for what comes after %d, and its answer ends at %d", after, last)
		}
		after = last
	}
	return got, nil
}

// chainedTo is the longest end of records that leads to the trusted record before
// which they should lie without a break. What a record says is vouched for by its
// chain from the record before it, which is last for the first of them.
func chainedTo(last *cluster.Record, records []cluster.Record, before cluster.Record) []cluster.Record {
	next := before
	for i := len(records) - 1; i >= 0; i-- {
		if !next.Follows(&records[i]) {
			return records[min(i+2, len(records)):]
		}
		next = records[i]
	}
	if len(records) > 0 && !next.Follows(last) {
		return records[1:]
	}
	return records
}

// newest is the last change in this node's journal, nil if there is none.
func (a *audits) newest() (last *cluster.Record) {
	_, err := a.changes.Read(max(a.changes.Last(), 1)-1, func(e journal.Entry) bool {
		var r cluster.Record
		if json.Unmarshal(e.Value, &r) == nil {
			last = &r
		}
		return true
	})
	if err != nil {
		a.log.Warn("the newest entry of the audit trail cannot be read", "error", err)
	}
	return last
}

// peerAuditChanges and peerAuditOwn are paths for other nodes.
const (
	peerAuditChanges = "/waybill/audit/changes" // ?after= -> []cluster.Record
	peerAuditOwn     = "/waybill/audit/own"     // ?after= and a filter -> ownEntries
	peerAuditLimit   = 10 * time.Second
	peerAuditPage    = 1000
)

// ask makes one request of another node.
func (a *audits) ask(ctx context.Context, node, path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeout(ctx, peerAuditLimit)
	defer cancel()
	body, err := askPeer(ctx, a.fleet, node, path, query, auditSegment*4)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// handle answers other nodes.
func (a *audits) handle(mux *http.ServeMux) {
	mux.HandleFunc("GET "+peerAuditChanges, func(w http.ResponseWriter, r *http.Request) {
		after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		records := []cluster.Record{}
		_, err = a.changes.Read(after, func(e journal.Entry) bool {
			var r cluster.Record
			if json.Unmarshal(e.Value, &r) == nil {
				records = append(records, r)
			}
			return len(records) < peerAuditPage
		})
		answerPeer(w, records, err)
	})
	mux.HandleFunc("GET "+peerAuditOwn, func(w http.ResponseWriter, r *http.Request) {
		q, after, err := decodeAuditQuery(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		own, err := a.ownEntries(q, after)
		answerPeer(w, own, err)
	})
}

func (a *audits) close() {
	if a == nil {
		return
	}
	for _, j := range []*journal.Journal{a.changes, a.own} {
		if err := j.Close(); err != nil {
			a.log.Error("audit trail", "error", err)
		}
	}
}

// matches reports whether a query is for an entry.
func matches(q api.AuditQuery, e *api.AuditEntry) bool {
	if !q.Since.IsZero() && e.Time.Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) ||
		q.User != "" && e.User != q.User || q.Operation != "" && e.Operation != q.Operation {
		return false
	}
	if q.Object == "" || strings.Contains(e.Target, q.Object) {
		return true
	}
	for _, o := range e.Objects {
		if o.Key == q.Object {
			return true
		}
	}
	return false
}
