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

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// ErrNotExact says that [Syncer.ApplyExact] wrote nothing, because of the rows
// that came with it.
var ErrNotExact = errors.New("a group has no exact position at the destination")

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
	Log      *slog.Logger
}

// Syncer moves the positions of a flow's groups along with their data. Its methods
// are safe for concurrent use.
type Syncer struct {
	cfg    SyncConfig
	report atomic.Pointer[Report]
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
		rows, err := s.Round(ctx)
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
	return s.look(ctx, s.cfg.Groups, Case{})
}

// Round looks at every group once and commits what is due at the destination.
func (s *Syncer) Round(ctx context.Context) ([]Row, error) {
	rows, err := s.look(ctx, s.cfg.Groups, Case{})
	if err != nil {
		return nil, err
	}
	var errs []error
	for group, mine := range byGroup(rows) {
		if err := s.write(ctx, group, mine); err != nil {
			errs = append(errs, err)
		}
	}
	return rows, errors.Join(errs...)
}

// ApplyExact commits the exact positions of the named groups, or nothing at all:
// if one of them has no exact position, or could still go on at the source, it
// returns an error that wraps [ErrNotExact] and the rows that say why. What it
// committed it has read back. It may be repeated.
//
// Overwrite is for groups that come home: what they once committed at the
// destination themselves is replaced.
func (s *Syncer) ApplyExact(ctx context.Context, groups []string, overwrite bool) ([]Row, error) {
	pick := func(g string) bool { return slices.Contains(groups, g) }
	rows, err := s.look(ctx, pick, Case{Final: true, Overwrite: overwrite})
	if err != nil {
		return nil, fmt.Errorf("apply group positions: %w", err)
	}
	grouped := byGroup(rows)
	for _, g := range groups {
		if grouped[g] == nil {
			return rows, fmt.Errorf("apply group positions: %w: group %s has no position in the flow's topics", ErrNotExact, g)
		}
	}
	for _, row := range rows {
		if row.Action == Wait || row.Action == Leave {
			return rows, fmt.Errorf("apply group positions: %w: group %s, %s: %s", ErrNotExact, row.Group, row.Source, row.Why)
		}
	}
	for _, group := range slices.Sorted(maps.Keys(grouped)) {
		if err := s.write(ctx, group, grouped[group]); err != nil {
			return rows, fmt.Errorf("apply group positions: %w", err)
		}
	}
	return rows, s.readBack(ctx, groups, rows)
}

func (s *Syncer) write(ctx context.Context, group string, rows []*Row) error {
	at := map[flow.TopicPartition]Commit{}
	for _, row := range rows {
		if row.Action == Write {
			at[row.Destination] = Commit{row.Result.Offset, Mark(s.cfg.Flow)}
		}
	}
	if len(at) == 0 {
		return nil
	}
	if err := s.cfg.Destination.Commit(ctx, group, at); err != nil {
		return err
	}
	for _, row := range rows {
		row.Written = row.Action == Write
	}
	return nil
}

func (s *Syncer) readBack(ctx context.Context, groups []string, rows []Row) error {
	now, err := s.cfg.Destination.Commits(ctx, groups)
	if err != nil {
		return fmt.Errorf("read group positions back: %w", err)
	}
	for i := range rows {
		row := &rows[i]
		got, ok := now[row.Group][row.Destination]
		if row.Written = ok && got == (Commit{row.Result.Offset, Mark(s.cfg.Flow)}); !row.Written {
			return fmt.Errorf("read group positions back: group %s, %s: offset %d %q stands there, wrote %d",
				row.Group, row.Destination, got.Offset, got.Metadata, row.Result.Offset)
		}
	}
	return nil
}

// view is what a round knows of both clusters. The order in which it was asked
// for matters: see look.
type view struct {
	states, there  map[string]string // of the groups
	ids, idsThere  map[string]ledger.TopicID
	commits        map[string]map[flow.TopicPartition]Commit
	commitsThere   map[string]map[flow.TopicPartition]Commit
	ends           map[flow.TopicPartition]int64 // of the source
	floors         map[flow.TopicPartition]int64
	startsT, endsT map[flow.TopicPartition]int64
}

// look asks both clusters and the ledgers, and decides as how says. Committed positions come
// first, then last stable offsets, then the ledger: so the ledger knows of every
// record below both. The destination's commits come last, just before the write.
func (s *Syncer) look(ctx context.Context, pick func(string) bool, how Case) ([]Row, error) {
	src, dst := s.cfg.Source, s.cfg.Destination
	var v view
	var err error
	if v.states, err = src.Groups(ctx); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	var groups []string
	for g := range v.states {
		if pick(g) {
			groups = append(groups, g)
		}
	}
	if slices.Sort(groups); len(groups) == 0 {
		return nil, nil
	}
	if v.commits, err = src.Commits(ctx, groups); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	topics, renamed := s.topics(v.commits)
	if v.ends, err = src.Ends(ctx, topics); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if v.ids, err = src.Topics(ctx, topics); err != nil {
		return nil, fmt.Errorf("source: %w", err)
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
	if v.commitsThere, err = dst.Commits(ctx, groups); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
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

func (s *Syncer) decide(ctx context.Context, v view, groups []string, how Case) ([]Row, error) {
	var rows []Row
	for _, g := range groups {
		moved := s.cfg.Moved.IsMoved(s.cfg.Flow, g)
		if why := s.left(v, g); !moved && !how.Overwrite && why != "" {
			if err := s.cfg.Moved.Mark(ctx, s.cfg.Flow, g, why); err != nil {
				return nil, fmt.Errorf("mark group %s as moved: %w", g, err)
			}
			moved = true
		}
		for tp, at := range v.commits[g] {
			if !s.cfg.Topics(tp.Topic) {
				continue
			}
			c := how
			c.Flow, c.Moved, c.Row = s.cfg.Flow, moved, s.row(v, g, tp, at)
			if there, ok := v.commitsThere[g][c.Destination]; ok {
				c.Stands = &there
			}
			rows = append(rows, Decide(c))
		}
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Source.Topic, b.Source.Topic), cmp.Compare(a.Source.Partition, b.Source.Partition))
	})
	return rows, nil
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

// row fills in what is known of a group's position before anything is decided.
func (s *Syncer) row(v view, group string, tp flow.TopicPartition, at Commit) Row {
	to := flow.TopicPartition{Topic: s.cfg.Rename(tp.Topic), Partition: tp.Partition}
	row := Row{
		Group: group, Source: tp, Destination: to, SourceOffset: at.Offset, SourceLag: -1,
		SourceState: v.states[group], DestinationState: v.there[group],
	}
	if end, ok := v.ends[tp]; ok {
		row.SourceLag = max(0, end-at.Offset)
	}
	id, ok := v.ids[tp.Topic]
	idThere, okThere := v.idsThere[to.Topic]
	if !ok || !okThere {
		row.Result = none(NoCopy, "the topic does not exist at both ends")
		return row
	}
	route := s.cfg.Maps.Route(
		ledger.End{Cluster: s.cfg.SourceID, TopicID: id, Partition: tp.Partition},
		ledger.End{Cluster: s.cfg.DestinationID, TopicID: idThere, Partition: to.Partition},
	)
	known := func(m map[flow.TopicPartition]int64) int64 {
		if at, ok := m[to]; ok {
			return at
		}
		return -1
	}
	row.Result = route.Translate(at.Offset, Bounds{Start: known(v.startsT), End: known(v.endsT), Floor: known(v.floors)})
	return row
}

// byGroup splits rows, which it points into.
func byGroup(rows []Row) map[string][]*Row {
	groups := map[string][]*Row{}
	for i := range rows {
		groups[rows[i].Group] = append(groups[rows[i].Group], &rows[i])
	}
	return groups
}
