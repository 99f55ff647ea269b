package offsets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/waybillhq/waybill/flow"
)

// ErrNotExact says that nothing was written, because of the rows that came with it.
var ErrNotExact = errors.New("a group has no exact position at the destination")

// Terms are what an operator agrees to when groups change sides.
type Terms struct {
	// Overwrite replaces what groups once committed at the destination themselves:
	// for groups that come home.
	Overwrite bool
	// Inexact moves groups, too, that read records again, or skip some, as the rows say.
	// Redeliver moves share groups, too, that read again what they have acknowledged out
	// of order, and nothing else.
	Inexact, Redeliver bool
	// Unmarked commits without the flow's mark: the caller remembers that the groups
	// have moved. The metadata of the source's commits is carried over as it is, what it
	// says of offsets included, unless DropMetadata leaves it out.
	Unmarked, DropMetadata bool
}

// ErrMeanwhile says that a group did something of its own between the look at it and
// the write: it became active, or its position changed.
var ErrMeanwhile = errors.New("a group did something of its own meanwhile")

// HalfwayError says that the groups of a move were not all moved, although each could
// have been when they were looked at: one did something of its own since
// ([ErrMeanwhile]), or its cluster failed.
type HalfwayError struct {
	Done []string // have their positions, which were read back
	Left []string // have not, as far as is known; the first is the one that ended the move
	Err  error    // why
}

func (e *HalfwayError) Error() string { return fmt.Sprintf("group %s: %v", e.Left[0], e.Err) }

// Unwrap is why.
func (e *HalfwayError) Unwrap() error { return e.Err }

// Apply commits the positions of the named groups, or nothing at all: if one of
// them has no position, none that the terms allow, or could still go on at the
// source, it returns an error that wraps [ErrNotExact] and the rows that say why.
// What it committed it has read back. It may be repeated. No commit is for several
// groups: if one cannot be written after all, those that come behind it by name are
// not, and the error wraps a [HalfwayError].
func (s *Syncer) Apply(ctx context.Context, groups []string, t Terms) ([]Row, error) {
	rows, err := s.plan(ctx, groups, t)
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
			return rows, fmt.Errorf("apply group positions: %w: %s: %s", ErrNotExact, row.Name(), row.Why)
		}
	}
	if err := s.moveAll(ctx, grouped); err != nil {
		return rows, fmt.Errorf("apply group positions: %w", err)
	}
	return rows, nil
}

// moveAll writes what is due of all groups, one after the other by name, and reads it
// back. It ends with the first that cannot be written.
func (s *Syncer) moveAll(ctx context.Context, grouped map[string][]*Row) error {
	names := slices.Sorted(maps.Keys(grouped))
	written := len(names)
	var failed error
	for i, group := range names {
		err := s.write(ctx, group, grouped[group])
		if j := slices.IndexFunc(grouped[group], func(r *Row) bool { return r.Action == Wait }); err == nil && j >= 0 {
			err = fmt.Errorf("%w: %s", ErrMeanwhile, grouped[group][j].Why)
		}
		if err != nil {
			written, failed = i, err
			break
		}
	}
	done, err := s.readBack(ctx, names[:written], grouped)
	if err = cmp.Or(err, failed); err == nil {
		return nil
	}
	left := slices.DeleteFunc(names, func(g string) bool { return slices.Contains(done, g) })
	return &HalfwayError{Done: done, Left: left, Err: err}
}

// PlanApply says what [Syncer.Apply] would do with the named groups, and writes
// nothing.
func (s *Syncer) PlanApply(ctx context.Context, groups []string, t Terms) ([]Row, error) {
	return s.plan(ctx, groups, t)
}

func (s *Syncer) plan(ctx context.Context, groups []string, t Terms) ([]Row, error) {
	return s.look(ctx, among(groups), Case{Final: true, Overwrite: t.Overwrite, Inexact: t.Inexact, Redeliver: t.Redeliver, Unmarked: t.Unmarked, DropMetadata: t.DropMetadata}, nil)
}

// readBack looks whether what was to be committed stands there, and not only was
// acknowledged, and returns the groups of which all of it does.
func (s *Syncer) readBack(ctx context.Context, groups []string, grouped map[string][]*Row) (done []string, err error) {
	asked := make([]Group, len(groups))
	for i, group := range groups {
		asked[i] = Group{Name: group, Share: grouped[group][0].Share}
	}
	now, unread, err := commitsOf(ctx, s.cfg.Destination, asked)
	if err != nil {
		return nil, fmt.Errorf("read its position back: %w", err)
	}
	for _, group := range groups {
		if unread[group] != nil {
			if err == nil {
				err = fmt.Errorf("read its position back: %w", unread[group])
			}
			continue
		}
		stands := true
		for _, row := range grouped[group] {
			got, ok := now[group][row.Destination]
			if row.Written = ok && got == row.commit; row.Written {
				continue
			}
			if stands = false; err == nil {
				err = fmt.Errorf("read its position back: %w: %s: offset %d %q stands there, wrote %d",
					ErrMeanwhile, row.Destination, got.Offset, got.Metadata, row.Result.Offset)
			}
		}
		if stands {
			done = append(done, group)
		}
	}
	return done, err
}

// Adopt makes what an idle group has committed at the source of s in the flow's
// topics positions of the flow named, without moving them: so that flow, which
// leads there, may go on moving them. It is the end of a return; it may be repeated.
// Rows are those of which the group came home. If it has committed something else
// since, nothing is adopted, and the error wraps [ErrActive].
func (s *Syncer) Adopt(ctx context.Context, group, flowName string, rows []Row) error {
	g, looked := Group{Name: group}, map[flow.TopicPartition]int64{}
	for _, r := range rows {
		if r.Group == group {
			g.Share, looked[r.Source] = r.Share, r.SourceOffset
		}
	}
	commits, err := s.cfg.Source.Commits(ctx, []Group{g})
	if err != nil {
		return fmt.Errorf("adopt group %s: %w", group, err)
	}
	at := map[flow.TopicPartition]Commit{}
	for tp, c := range commits[group] {
		if !s.cfg.Topics(tp.Topic) {
			continue
		}
		if was, ok := looked[tp]; !ok || was != c.Offset {
			return fmt.Errorf("adopt group %s: %w, or had some: it has committed offset %d of %s since it was looked at", group, ErrActive, c.Offset, tp)
		}
		if c.Metadata != Mark(flowName) {
			at[tp] = Commit{c.Offset, Mark(flowName)}
		}
	}
	if len(at) == 0 {
		return nil
	}
	if err := s.cfg.Source.Commit(ctx, g, at); err != nil {
		return fmt.Errorf("adopt group %s: %w", group, err)
	}
	return nil
}
