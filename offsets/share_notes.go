package offsets

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/flow"
)

// A note is written before a share-partition's start is set, because a start has no
// metadata: after a crash, too, what stands there is one of the two, or somebody else's.
// Notes are the metadata of commits of a group beside the share group.
type note struct{ Now, Before Commit }

// notesOf is the group that has the notes of a share group.
func notesOf(group string) string { return "__waybill.share." + group }

func isNotes(group string) bool { return strings.HasPrefix(group, notesOf("")) }

// tells says whether a note tells who has set a start.
func (n note) tells(start int64) bool { return n.Now.Offset == start || n.Before.Offset == start }

// taken is a position as whoever set it noted it down, or one that nobody did.
func (n note) taken(c Commit) Commit {
	for _, known := range []Commit{n.Now, n.Before} {
		if known.Offset == c.Offset {
			c.Metadata = known.Metadata
			break
		}
	}
	return c
}

// positions are what stands in a cluster, by group.
type positions = map[string]map[flow.TopicPartition]Commit

// startsTries is how often starts are asked for that go on meanwhile.
const startsTries = 4

var errGoesOn = errors.New("its starts go on while they are asked for")

// withNotes asks for notes behind the starts: what a flow notes down in between says where
// they stood before, too. The other way round a start that is set in between would be nobody's.
// What no note tells of is nobody's only if it still stands there: else a flow has set it
// more than once in between, and both are asked for anew.
func withNotes(groups []string, starts, notes func(groups []string) (positions, GroupErrors)) (positions, error) {
	all, failed := positions{}, GroupErrors{}
	for try := 0; len(groups) > 0 && try < startsTries; try++ {
		stand, unread := starts(groups)
		noted, unnoted := notes(notesOfAll(groups))
		strange := slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return !strangeTo(stand[g], noted[notesOf(g)]) })
		again, lost := starts(strange)
		var anew []string
		for _, g := range groups {
			delete(failed, g)
			err := cmp.Or(unread[g], lost[g])
			if e := unnoted[notesOf(g)]; e != nil && err == nil && len(stand[g]) > 0 {
				err = fmt.Errorf("notes on it, in group %s: %w", notesOf(g), e)
			}
			switch {
			case err != nil:
				failed[g] = err
			case slices.Contains(strange, g) && !maps.Equal(stand[g], again[g]):
				failed[g] = errGoesOn
				anew = append(anew, g)
			default:
				all[g] = taken(stand[g], noted[notesOf(g)])
			}
		}
		groups = anew
	}
	return all, failed.err()
}

func notesOfAll(groups []string) []string {
	all := make([]string, len(groups))
	for i, g := range groups {
		all[i] = notesOf(g)
	}
	return all
}

// noteIn is what a commit of a group of notes says; if it is none of ours, of nothing.
func noteIn(c Commit) (n note, ok bool) {
	ok = json.Unmarshal([]byte(c.Metadata), &n) == nil
	return n, ok
}

// strangeTo says whether there is a start that its note does not tell of.
func strangeTo(starts, noted map[flow.TopicPartition]Commit) bool {
	for tp, c := range starts {
		if n, ok := noteIn(noted[tp]); ok && !n.tells(c.Offset) {
			return true
		}
	}
	return false
}

// taken are starts as those who set them noted them down.
func taken(starts, noted map[flow.TopicPartition]Commit) map[flow.TopicPartition]Commit {
	at := map[flow.TopicPartition]Commit{}
	for tp, c := range starts {
		if n, ok := noteIn(noted[tp]); ok {
			c = n.taken(c)
		}
		at[tp] = c
	}
	return at
}

// renewEvery keeps the notes on share groups: Kafka forgets what was committed a week ago.
const renewEvery = time.Hour

// renew notes down anew where share groups stand at the destination that flows have set
// there, whatever the source says of them by now: a start that nobody knew any more would
// have the group moved.
func (s *Syncer) renew(ctx context.Context) (GroupErrors, error) {
	failed := GroupErrors{}
	if last := s.renewed.Load(); last != 0 && time.Since(time.Unix(0, last)) < renewEvery {
		return failed, nil
	}
	groups, err := s.cfg.Destination.Groups(ctx)
	if err != nil {
		return failed, err
	}
	mine := slices.DeleteFunc(slices.Collect(maps.Values(groups)), func(g Group) bool {
		return !g.Share || !idle(g.State) || !s.cfg.Groups(g.Name) || s.cfg.Moved.IsMoved(s.cfg.Flow, g.Name)
	})
	stand := positions{}
	addStarts(ctx, s.cfg.Destination, mine, stand, GroupErrors{}) // a group that follows says itself what fails
	for _, g := range mine {
		var rows []*Row
		for tp, c := range stand[g.Name] {
			if writtenByFlow(c) {
				rows = append(rows, &Row{Group: g.Name, Share: true, Destination: tp, Present: c.Offset, Action: Write, stands: c, commit: c})
			}
		}
		if err := s.write(ctx, g.Name, rows); err != nil {
			failed[g.Name] = err
		}
	}
	s.renewed.Store(time.Now().UnixNano())
	return failed, nil
}

// turnAfter is how long a flow that leads to the same share-partition as another leaves it to
// that one, which sets its start, while that does not.
const turnAfter = 10 * time.Second

// turns are since when starts stand that others are to set. Two that note something down
// within the same milliseconds, and set it, could each take the other for somebody else.
type turns struct {
	mu    sync.Mutex
	since map[placeKey]turn
}

type turn struct {
	stands Commit
	since  time.Time
}

// take has those rows written that were left to another flow for long enough.
func (t *turns) take(rows []Row, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := map[placeKey]turn{}
	for i := range rows {
		row := &rows[i]
		if !row.yields {
			continue
		}
		key := placeKey{row.Group, row.Destination}
		was, ok := t.since[key]
		if !ok || was.stands != row.stands {
			was = turn{row.stands, now}
		}
		if now.Sub(was.since) >= turnAfter {
			row.Action, row.Why = Write, ""
		}
		since[key] = was
	}
	t.since = since
}
