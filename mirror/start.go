package mirror

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/flow"
)

// errNoCommits says that the group that a flow starts from is not there.
var errNoCommits = errors.New("the group has committed nothing at the source")

// startOf is the source offset with which a copy begins that has no history. What
// lies before it is declared as not asked for. It is found once: a second try must
// not move it.
func (f *flowRun) startOf(ctx context.Context, c *copier) (int64, error) {
	if c.startAt >= 0 {
		return c.startAt, nil
	}
	if c.a.Newborn {
		return 0, nil
	}
	at, err := f.findStart(ctx, c.source())
	if err != nil {
		return 0, err
	}
	c.startAt = at
	return at, nil
}

func (f *flowRun) findStart(ctx context.Context, tp flow.TopicPartition) (int64, error) {
	start := f.spec.Spec.Start
	if start == "" || start == flow.StartEarliest {
		return 0, nil
	}
	adm := kadm.NewClient(f.source.client)
	ends, err := adm.ListCommittedOffsets(ctx, tp.Topic)
	end, err := listed(ends, err, tp)
	if err != nil || start == flow.StartLatest {
		return end, err
	}
	if t, ok := start.Timestamp(); ok {
		after, err := adm.ListOffsetsAfterMilli(ctx, t.UnixMilli(), tp.Topic)
		return listed(after, err, tp)
	}
	if group, ok := start.Group(); ok {
		commits, err := adm.FetchOffsets(ctx, group)
		if err != nil {
			return 0, fmt.Errorf("where group %s stands at the source: %w", group, err)
		}
		return committedStart(commits, group, tp, end)
	}
	return 0, fmt.Errorf("start %q is not known", start)
}

func listed(offsets kadm.ListedOffsets, err error, tp flow.TopicPartition) (int64, error) {
	if err != nil {
		return 0, fmt.Errorf("list offsets of %v: %w", tp, err)
	}
	o, ok := offsets.Lookup(tp.Topic, tp.Partition)
	if !ok || o.Err != nil {
		return 0, fmt.Errorf("list offsets of %v: %w", tp, orElse(o.Err, errors.New("the source does not tell")))
	}
	return o.Offset, nil
}

// committedStart is where a partition begins for a group. One in which the group
// has committed nothing begins at its first offset: nothing that the group may
// still want is left out. A group that has committed nothing at all is more likely
// a wrong name than a wish for everything.
func committedStart(commits kadm.OffsetResponses, group string, tp flow.TopicPartition, end int64) (int64, error) {
	any := false
	commits.Each(func(o kadm.OffsetResponse) { any = any || o.Err == nil && o.At >= 0 })
	if !any {
		return 0, fmt.Errorf("group %s: %w", group, errNoCommits)
	}
	o, ok := commits.Lookup(tp.Topic, tp.Partition)
	switch {
	case ok && o.Err != nil:
		return 0, fmt.Errorf("where group %s stands in %v: %w", group, tp, o.Err)
	case !ok || o.At < 0:
		return 0, nil
	}
	return min(o.At, end), nil
}
