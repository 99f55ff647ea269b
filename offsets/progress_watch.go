package offsets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/scribe"
)

// Told is what the ledger of a cluster says last of the position of a group.
func (ms *Maps) Told(cluster string, k ProgressKey) (Told, bool) {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	t, ok := ms.told[cluster][k]
	return t, ok
}

// AllTold is what it says of all.
func (ms *Maps) AllTold(cluster string) map[ProgressKey]Told {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	all := make(map[ProgressKey]Told, len(ms.told[cluster]))
	for k, t := range ms.told[cluster] {
		all[k] = t
	}
	return all
}

// RecordsAccesses says that a cluster has recorded itself who fetches and commits.
func (ms *Maps) RecordsAccesses(cluster string) bool {
	ms.mu.RLock()
	defer ms.mu.RUnlock()
	return ms.records[cluster]
}

// progress takes in what a ledger says of a group's position. ms.mu is held.
func (ms *Maps) progress(cluster string, e *ledger.Progress) {
	k := ProgressKey{e.Group, e.TopicID, e.Partition}
	if ms.told[cluster] == nil {
		ms.told[cluster] = map[ProgressKey]Told{}
	}
	if have, ok := ms.told[cluster][k]; !ok || !e.At.Before(have.At) {
		ms.told[cluster][k] = Told{Topic: e.Topic, Next: e.Next, Gone: e.Kind == ledger.Gone, At: e.At}
	}
}

// WatchConfig is what a Watch needs.
type WatchConfig struct {
	Cluster string // cluster.id
	Maps    *Maps  // which read its ledger
	// Watched says which groups and topics this Watch tells of. Of each at most one should.
	Watched func(group, topic string) bool
	// May says whether entries may be written at all now.
	May func() bool
	// Writer writes to the cluster's ledger. Run closes it.
	Writer *scribe.Writer
	Log    *slog.Logger
}

// Watch writes down how the positions of a cluster's groups go on, where the cluster does
// not record accesses itself. Its methods are safe for concurrent use.
type Watch struct {
	cfg WatchConfig

	mu       sync.Mutex
	progress *Progress                 // nil until the ledger was read
	ids      map[string]ledger.TopicID // as of the look before
}

// NewWatch returns a Watch that knows nothing.
func NewWatch(cfg WatchConfig) *Watch { return &Watch{cfg: cfg} }

const (
	watchEvery   = time.Second
	watchRetry   = 10 * time.Second // after a failure
	watchAtOnce  = 2000             // entries
	watchPatient = 15 * time.Second // with the ledger
)

// Run writes what comes of looks until ctx ends, and returns nil then. What fails is tried
// again.
func (w *Watch) Run(ctx context.Context) error {
	defer w.cfg.Writer.Close()
	said := ""
	for ctx.Err() == nil {
		next := watchEvery
		err := w.write(ctx)
		if err != nil && ctx.Err() == nil {
			next = watchRetry
			if !errors.Is(err, scribe.ErrNoLedger) && said != err.Error() {
				said = err.Error()
				w.cfg.Log.Warn("how groups go on is not written to the ledger", "cluster", w.cfg.Cluster, "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
	return nil
}

// write writes what is due. If that fails it is not known what of it is written, until the
// ledger was read again: the next call does so first.
func (w *Watch) write(ctx context.Context) error {
	if !w.tells() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, watchPatient)
	defer cancel()
	if err := w.goOn(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	due := w.progress.Due(time.Now(), watchAtOnce)
	w.mu.Unlock()
	if len(due) == 0 {
		return nil
	}
	entries := make([]ledger.Entry, len(due))
	for i, e := range due {
		entries[i] = e
	}
	topic := func(e ledger.Entry) ledger.TopicID { return e.(*ledger.Progress).TopicID }
	if err := w.cfg.Writer.Write(ctx, entries, topic); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.progress.Written(time.Now())
	return nil
}

// tells says whether there is anything to write for now.
func (w *Watch) tells() bool { return w.cfg.May() && !w.cfg.Maps.RecordsAccesses(w.cfg.Cluster) }

// goOn reads the ledger where that is to be done before anything is written.
func (w *Watch) goOn(ctx context.Context) error {
	w.mu.Lock()
	read := w.progress != nil && !w.progress.onWay()
	w.mu.Unlock()
	if read {
		return nil
	}
	if err := w.cfg.Maps.CatchUp(ctx, w.cfg.Cluster); err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.progress == nil {
		w.progress = NewProgress(w.cfg.Maps.AllTold(w.cfg.Cluster), func(k ProgressKey) (Told, bool) { return w.cfg.Maps.Told(w.cfg.Cluster, k) })
	}
	w.progress.Failed()
	return nil
}

// unlisted asks for the commits of groups that were there and are not listed: brokers leave
// out whose coordinator is away or moving, and whom they do not show any more. What they do
// not answer for is not gone. They are few: those that are gone are not asked for again.
func (w *Watch) unlisted(ctx context.Context, source Cluster, v *view) {
	w.mu.Lock()
	var lost []Group
	if w.progress != nil && w.tells() {
		for name := range w.progress.Groups() {
			if _, listed := v.states[name]; !listed {
				lost = append(lost, Group{Name: name})
			}
		}
	}
	w.mu.Unlock()
	if len(lost) == 0 {
		return
	}
	commits, unasked, err := commitsOf(ctx, source, lost)
	v.unlisted = unasked
	for _, g := range lost {
		if err != nil {
			v.unlisted[g.Name] = err
		}
	}
	maps.Copy(v.commits, commits)
}

// look takes in what a round has seen of the source. Topics and log ends were asked for
// behind the commits: a topic that had the same id before has had no other life in between,
// and no group can have read behind such an end. Share groups are passed over: they read
// behind where they start, and in any order.
func (w *Watch) look(asked, answered time.Time, v *view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.ids
	if w.ids = v.ids; w.progress == nil || before == nil || !w.tells() {
		return
	}
	s := Sight{Asked: asked, Answered: answered, Watched: w.cfg.Watched, Unsure: map[string]bool{}, Unread: map[string]bool{}}
	for _, errs := range []GroupErrors{v.unread, v.unlisted} {
		for group := range errs {
			s.Unread[group] = true
		}
	}
	for group, at := range v.commits {
		if v.states[group].Share {
			continue
		}
		for tp, c := range at {
			id, ok := v.ids[tp.Topic]
			if was, known := before[tp.Topic]; !ok || !known || was != id {
				s.Unsure[tp.Topic] = true
				continue
			}
			seen := SeenPosition{
				ProgressKey: ProgressKey{group, id, tp.Partition}, Topic: tp.Topic, Offset: c.Offset,
				Members: hasMembers(v.states[group].State), Flow: writtenByFlow(c), Start: v.starts[tp], End: -1,
			}
			_, begins := v.starts[tp]
			if end, ends := v.ends[tp]; begins && ends {
				seen.End = end
			}
			s.Seen = append(s.Seen, seen)
		}
	}
	w.progress.Look(s)
}

// hasMembers says whether a group in a state has members, as far as is known: old brokers
// do not list states.
func hasMembers(state string) bool {
	return !slices.Contains([]string{"", "Empty", "Dead", "Unknown"}, state)
}
