package offsets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// Moved remembers, for ever and for the whole fleet, which groups have left the
// source: their positions at the destination are theirs.
type Moved interface {
	IsMoved(flowName, group string) bool
	Mark(ctx context.Context, flowName, group, why string) error
}

// SyncConfig is what a Syncer needs.
type SyncConfig struct {
	Flow string // its name; part of the mark on its commits
	// SourceID and DestinationID are cluster.ids. To bring groups home, swap
	// the two ends and the naming.
	SourceID, DestinationID string
	Source, Destination     Cluster
	Groups, Topics          func(name string) bool // which of the source's follow
	Rename                  func(topic string) string
	// Interval between rounds; 0 is 1 s.
	Interval time.Duration
	Maps     *Maps
	Moved    Moved
	// Peers are other clusters by cluster.id, nil where one is not known: several
	// flows may lead into one topic, and a group may read all their sources. It may be
	// nil itself.
	Peers func(clusterID string) Cluster
	// Watch takes in what each round sees of the source's groups; it may be nil.
	Watch *Watch
	Log   *slog.Logger
}

// Syncer moves the positions of a flow's groups along with their data. Its methods
// are safe for concurrent use.
type Syncer struct {
	cfg     SyncConfig
	report  atomic.Pointer[Report]
	renewed atomic.Int64 // when the notes on share groups were, 0 if never
	turns   turns
	placed  placed
}

// Report is the outcome of a round. It must not be changed.
type Report struct {
	At   time.Time `json:"at"`
	Rows []Row     `json:"rows"` // by group, topic and partition
	Err  string    `json:"error,omitempty"`
	// Cause is the error whose text Err is.
	Cause error `json:"-"`
}

// NewSyncer returns a Syncer.
func NewSyncer(cfg SyncConfig) *Syncer {
	if cfg.Interval <= 0 {
		cfg.Interval = time.Second
	}
	s := &Syncer{cfg: cfg}
	s.report.Store(&Report{})
	return s
}

// Report is the outcome of the last round of Run.
func (s *Syncer) Report() *Report { return s.report.Load() }

// Run does a round each interval until ctx ends, and returns nil then. A round
// that fails shows in Report and is tried again.
func (s *Syncer) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		rows, err := s.tend(ctx)
		if ctx.Err() != nil {
			return nil
		}
		r := &Report{At: time.Now(), Rows: rows}
		if err != nil {
			r.Err, r.Cause = err.Error(), err
			if r.Err != s.Report().Err {
				s.cfg.Log.Warn("group positions not synchronised", "flow", s.cfg.Flow, "err", err)
			}
		}
		s.report.Store(r)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Plan says what each group would do, and writes nothing.
func (s *Syncer) Plan(ctx context.Context) ([]Row, error) {
	return s.look(ctx, s.cfg.Groups, Case{}, nil)
}

// Follows are the names of the source's groups that follow, in order.
func (s *Syncer) Follows(ctx context.Context) ([]string, error) {
	groups, err := s.cfg.Source.Groups(ctx)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	var all []string
	for name := range groups {
		if s.cfg.Groups(name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all, nil
}

// PlanOf is [Syncer.Plan] of some of the groups that follow.
func (s *Syncer) PlanOf(ctx context.Context, groups []string) ([]Row, error) {
	named := among(groups)
	return s.look(ctx, func(g string) bool { return named(g) && s.cfg.Groups(g) }, Case{}, nil)
}

// among says of each name whether it is one of these.
func among(names []string) func(string) bool {
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	return func(name string) bool { return known[name] }
}

// tend keeps the notes on share groups, and does a round. Only who looks after the flow keeps
// them: two writers of a note may take each other for somebody else.
func (s *Syncer) tend(ctx context.Context) ([]Row, error) {
	failed, err := s.renew(ctx)
	if err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	rows, err := s.Round(ctx)
	some, err := perGroup(err)
	maps.Copy(failed, some)
	return rows, cmp.Or(err, failed.err())
}

// Round looks at every group once and commits what is due at the destination. What goes
// wrong with some groups is in their rows, and in a [GroupErrors] that comes with all rows.
func (s *Syncer) Round(ctx context.Context) ([]Row, error) {
	failed := GroupErrors{}
	rows, err := s.look(ctx, s.cfg.Groups, Case{}, s.cfg.Watch)
	if err != nil {
		return nil, err
	}
	s.turns.take(rows, time.Now())
	s.placed.follow(rows)
	for group, mine := range byGroup(rows) {
		unread := mine[0].unread
		if errors.Is(unread, kerr.UnstableOffsetCommit) {
			unread = nil // transactions end by themselves, and begin again
		}
		if err := cmp.Or(unread, s.write(ctx, group, mine)); err != nil {
			failed[group] = err
		}
	}
	s.placed.remember(rows)
	return rows, failed.err()
}

// Unread is a [GroupErrors] of the groups that have not moved and of which no positions can be
// had now, at either end; nil if there is none.
func Unread(rows []Row) error {
	all := GroupErrors{}
	for _, row := range rows {
		if row.unread != nil {
			all[row.Group] = row.unread
		}
	}
	return all.err()
}

// write commits what is due of a group, unless it has become active or committed
// something itself since it was looked at: then it waits for the next round, as it does
// if that fails.
func (s *Syncer) write(ctx context.Context, group string, rows []*Row) error {
	due := slices.DeleteFunc(slices.Clone(rows), func(r *Row) bool { return r.Action != Write })
	if len(due) == 0 {
		return nil
	}
	why, err := s.commit(ctx, Group{Name: group, Share: rows[0].Share}, due)
	if err != nil {
		why, err = "at the destination: "+err.Error(), fmt.Errorf("destination: %w", err)
	}
	for _, row := range due {
		if row.Written = why == ""; !row.Written {
			row.Action, row.Why = Wait, why
		}
	}
	return err
}

// commit commits what is due of a group, or says why it has to wait.
func (s *Syncer) commit(ctx context.Context, g Group, due []*Row) (why string, err error) {
	now, err := s.cfg.Destination.Commits(ctx, []Group{g})
	if err != nil {
		return "", err
	}
	at := map[flow.TopicPartition]Commit{}
	for _, row := range due {
		stands, ok := now[g.Name][row.Destination]
		if ok != (row.Present >= 0) || ok && stands != row.stands {
			return "its position at the destination has changed meanwhile", nil
		}
		at[row.Destination] = row.commit
	}
	if err = s.cfg.Destination.Commit(ctx, g, at); errors.Is(err, ErrActive) {
		return "the group became active at the destination", nil
	}
	return "", err
}

// view is what a round knows of both clusters. The order in which it was asked
// for matters: see look.
type view struct {
	states, there map[string]Group
	dealt         map[string]map[flow.TopicPartition]int64 // by share groups
	noShares      string                                   // why share groups have no positions at the destination
	// Groups whose commits cannot be had, and why.
	unread, unreadThere GroupErrors
	unlisted            GroupErrors // the same of groups that the source does not list any more
	ids, idsThere       map[string]ledger.TopicID
	commits             map[string]map[flow.TopicPartition]Commit
	commitsThere        map[string]map[flow.TopicPartition]Commit
	starts, ends        map[flow.TopicPartition]int64 // of the source
	floors              map[flow.TopicPartition]int64
	startsT, endsT      map[flow.TopicPartition]int64
}

// look asks both clusters and the ledgers, and decides as how says. Committed positions come
// first, then last stable offsets, then the ledger: so the ledger knows of every
// record below both. The destination's commits come last, just before the write. watch may
// be nil. A group whose positions cannot be had has a row that says why.
func (s *Syncer) look(ctx context.Context, pick func(string) bool, how Case, watch *Watch) ([]Row, error) {
	src, dst := s.cfg.Source, s.cfg.Destination
	var v view
	var err error
	asked := time.Now()
	if v.states, err = src.Groups(ctx); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	groups := slices.DeleteFunc(slices.Collect(maps.Values(v.states)), func(g Group) bool { return !pick(g.Name) })
	slices.SortFunc(groups, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	if len(groups) == 0 {
		if watch != nil {
			v.ids, v.commits = map[string]ledger.TopicID{}, map[string]map[flow.TopicPartition]Commit{}
			watch.unlisted(ctx, src, &v)
			watch.look(asked, time.Now(), &v)
		}
		return nil, nil
	}
	if v.commits, v.unread, err = commitsOf(ctx, src, without(groups, sharing)); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if watch != nil {
		watch.unlisted(ctx, src, &v)
	}
	answered := time.Now()
	v.shares(ctx, src, groups)
	topics, renamed := s.topics(v.commits)
	if v.ends, err = src.Ends(ctx, topics); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if v.starts, err = src.Starts(ctx, topics); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if v.ids, err = src.Topics(ctx, topics); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if watch != nil {
		watch.look(asked, answered, &v)
	}
	if v.idsThere, err = dst.Topics(ctx, renamed); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	renamed = slices.DeleteFunc(renamed, func(t string) bool { _, ok := v.idsThere[t]; return !ok })
	if v.floors, err = dst.Stable(ctx, renamed); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	if err = s.catchUp(ctx); err != nil {
		return nil, err
	}
	if v.startsT, err = dst.Starts(ctx, renamed); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	if v.endsT, err = dst.Ends(ctx, renamed); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	if v.there, err = dst.Groups(ctx); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	if v.commitsThere, v.unreadThere, err = commitsOf(ctx, dst, without(groups, sharing)); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	v.sharesThere(ctx, dst, groups)
	return s.decide(ctx, v, groups, how)
}

// ledgerPatience is how long a round waits for a ledger that cannot be read, or has
// much that was not read yet. Then it fails, and says why.
const ledgerPatience = 10 * time.Second

// catchUp reads the ledger that holds the copies there, and the one that holds
// the copies back if it is read here at all.
func (s *Syncer) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	if err := s.cfg.Maps.CatchUp(ctx, s.cfg.DestinationID); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if !s.cfg.Maps.attached(s.cfg.SourceID) {
		return nil
	}
	if err := s.cfg.Maps.CatchUp(ctx, s.cfg.SourceID); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	return nil
}

func (s *Syncer) topics(commits map[string]map[flow.TopicPartition]Commit) (topics, renamed []string) {
	names := map[string]bool{}
	for _, at := range commits {
		for tp := range at {
			names[tp.Topic] = s.cfg.Topics(tp.Topic)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(names)) {
		if names[t] {
			topics, renamed = append(topics, t), append(renamed, s.cfg.Rename(t))
		}
	}
	return topics, renamed
}

func (s *Syncer) decide(ctx context.Context, v view, groups []Group, how Case) ([]Row, error) {
	var rows []Row
	p := peers{ask: s.cfg.Peers, groups: groups, known: map[string]*peer{}}
	for _, g := range groups {
		moved := s.cfg.Moved.IsMoved(s.cfg.Flow, g.Name)
		if why := s.left(v, g.Name); !moved && !how.Overwrite && why != "" {
			if err := s.cfg.Moved.Mark(ctx, s.cfg.Flow, g.Name, why); err != nil {
				return nil, fmt.Errorf("mark group %s as moved: %w", g.Name, err)
			}
			moved = true
		}
		how.Flow, how.Moved, how.Unfit = s.cfg.Flow, moved, unfit(g, v)
		if v.unread[g.Name] != nil {
			c := how
			c.Row = unread(g, v)
			c.unread = v.why(g, moved)
			rows = append(rows, Decide(c))
		}
		for tp, at := range v.commits[g.Name] {
			if !s.cfg.Topics(tp.Topic) {
				continue
			}
			c := how
			c.Adopted = writtenByFlow(at)
			c.Row, c.Partners = s.row(ctx, v, &p, g, tp, at)
			if there, ok := v.commitsThere[g.Name][c.Destination]; ok {
				c.Stands = &there
			}
			c.unread = v.why(g, moved)
			if end, ok := v.endsT[c.Destination]; ok {
				c.End = &end
			}
			rows = append(rows, Decide(c))
		}
	}
	slices.SortStableFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Source.Topic, b.Source.Topic), cmp.Compare(a.Source.Partition, b.Source.Partition))
	})
	return rows, nil
}

// unread is the row of a group whose positions cannot be had at the source.
func unread(g Group, v view) Row {
	why := "at the source: " + v.unread[g.Name].Error()
	if errors.Is(v.unread[g.Name], kerr.UnstableOffsetCommit) {
		why = "a transaction is open at the source that is to commit positions of the group"
	}
	return Row{
		Group: g.Name, Share: g.Share, SourceOffset: -1, SourceLag: -1, SourceState: g.State, DestinationState: v.there[g.Name].State,
		Result: none(Unknown, why),
	}
}

// why is why the positions of a group cannot be had, at either end. Of one that has moved
// nobody minds.
func (v view) why(g Group, moved bool) error {
	if moved {
		return nil
	}
	return cmp.Or(v.unread[g.Name], v.unreadThere[g.Name])
}

// left is why a group is taken to have moved: of the flow's topics it committed
// a position itself, in whichever partition. "" if it has not.
func (s *Syncer) left(v view, group string) string {
	for tp, c := range v.commitsThere[group] {
		if _, ours := v.idsThere[tp.Topic]; ours && !writtenByFlow(c) {
			return fmt.Sprintf("it committed offset %d of %s at the destination itself", c.Offset, tp)
		}
	}
	return ""
}

// row fills in what is known of a group's position before anything is decided, and
// names the flows that write the same partition of the destination.
func (s *Syncer) row(ctx context.Context, v view, p *peers, group Group, tp flow.TopicPartition, at Commit) (row Row, partners []string) {
	to := flow.TopicPartition{Topic: s.cfg.Rename(tp.Topic), Partition: tp.Partition}
	row = Row{
		Group: group.Name, Share: group.Share, Source: tp, Destination: to, SourceOffset: at.Offset, SourceLag: -1,
		SourceState: group.State, DestinationState: v.there[group.Name].State,
	}
	if !writtenByFlow(at) {
		row.Metadata = at.Metadata
	}
	if end, ok := v.ends[tp]; ok {
		row.SourceLag = max(0, end-at.Offset)
	}
	id, ok := v.ids[tp.Topic]
	idThere, okThere := v.idsThere[to.Topic]
	if !ok || !okThere {
		row.Result = none(NoCopy, "the topic does not exist at both ends")
		return row, nil
	}
	route := s.cfg.Maps.Route(
		ledger.End{Cluster: s.cfg.SourceID, TopicID: id, Partition: tp.Partition},
		ledger.End{Cluster: s.cfg.DestinationID, TopicID: idThere, Partition: to.Partition},
	)
	for _, m := range route.Further() {
		share, known, err := p.share(ctx, m, group.Name)
		if err != nil {
			row.Result = none(Unknown, err.Error())
			return row, nil
		}
		if known {
			route.Shares = append(route.Shares, share)
			partners = append(partners, m.Labels().Flow)
		}
	}
	known := func(m map[flow.TopicPartition]int64, tp flow.TopicPartition) int64 {
		if at, ok := m[tp]; ok {
			return at
		}
		return -1
	}
	bounds := Bounds{Start: known(v.startsT, to), End: known(v.endsT, to), Floor: known(v.floors, to)}
	if bounds.Start < 0 || bounds.End < 0 {
		// The copy may be lost, or have expired: a reader that is set where nothing is begins
		// where its own settings say.
		row.Result = none(Unknown, fmt.Sprintf("where the log of %s begins and ends at the destination is not known now", to))
		return row, partners
	}
	row.Result = route.Translate(at.Offset, bounds)
	row.alone = route.There != nil && route.Back == nil && len(route.Others)+len(route.Thirds) == 0
	if n := route.Stranded(at.Offset, known(v.ends, tp)); n < 0 && row.Result.Offset >= 0 {
		row.Result = none(Unknown, fmt.Sprintf("how many records from offset %d on were never copied from there cannot be told while the log end of %s is not known", at.Offset, tp))
	} else if n > 0 && row.Result.Offset >= 0 {
		row.Result.Exact = false
		row.Result.Skipped += n
		row.Result.Note = fmt.Sprintf("up to %d records from offset %d on were not copied from there, and nothing copies them back", n, at.Offset)
	}
	if group.Share {
		row.InOrder = row.Result.Exact
		dealt, ok := v.dealt[group.Name][tp]
		row.Result = row.Result.again(dealt-at.Offset, ok)
	}
	if start := known(v.starts, tp); at.Offset < start && row.Result.Note == "" {
		row.Result.Note = fmt.Sprintf("the source's log begins at %d by now", start)
	}
	return row, partners
}

// byGroup splits rows, which it points into.
func byGroup(rows []Row) map[string][]*Row {
	groups := map[string][]*Row{}
	for i := range rows {
		groups[rows[i].Group] = append(groups[rows[i].Group], &rows[i])
	}
	return groups
}
