package mirror

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/internal/ledger"
)

const (
	// newcomersWait is how long a look waits for the settings of topics that are to be
	// made, and with it all other topics: those that come later are for the next look.
	newcomersWait = time.Second
	// A broker that does not answer is given up soon, since another may; where that
	// does not help, answers may just take long.
	firstPatience, lastPatience = 4 * time.Second, time.Minute
)

// newcomers asks for the settings of topics whose counterparts are to be made, beside the
// looks for topics. It belongs to a [Discoverer].
type newcomers struct {
	source   *kgo.Client
	asked    beside[newSettings]
	patience time.Duration
	why      error // the last outcome
}

func (n *newcomers) end() { n.asked.end() }

// topicLife tells a topic from its namesakes.
type topicLife struct {
	name string
	id   ledger.TopicID
}

func lifeOf(p *topicPlan) topicLife { return topicLife{p.Source, p.SourceID} }

// newSettings are those of topics that were seen before they were asked for, so that they are
// those of the lives that are seen after it again.
type newSettings struct {
	of  map[topicLife]described
	err error // why some are missing
}

// settings are those of new topics that the source has told by now, and why it has not
// told the others, as far as that is known.
func (n *newcomers) settings(ctx context.Context, topics []*topicPlan, keys []string) (map[topicLife]described, error) {
	lives := make([]topicLife, len(topics))
	for i, p := range topics {
		lives[i] = lifeOf(p)
	}
	until := time.Now().Add(newcomersWait)
	for fresh := false; ; fresh = true {
		if !n.asked.busy() {
			n.asked.start(ctx, cmp.Or(n.patience, firstPatience), func(ctx context.Context) newSettings { return describeLives(ctx, n.source, lives, keys) })
		}
		got, ok := n.asked.take(ctx, time.Until(until))
		if !ok {
			return nil, n.why
		}
		n.why, n.patience = got.err, patienceAfter(cmp.Or(n.patience, firstPatience), got.err)
		missing := func(l topicLife) bool { _, told := got.of[l]; return !told }
		if got.err != nil || fresh || !slices.ContainsFunc(lives, missing) {
			return got.of, got.err
		}
	}
}

// patienceAfter is how long the next answer is waited for.
func patienceAfter(patience time.Duration, err error) time.Duration {
	if errors.Is(err, context.DeadlineExceeded) {
		return min(2*patience, lastPatience)
	}
	return firstPatience
}

// describeLives asks for some topics after the others, so that what has been told when time
// is over counts.
func describeLives(ctx context.Context, cl *kgo.Client, lives []topicLife, keys []string) newSettings {
	all := newSettings{of: map[topicLife]described{}}
	for some := range slices.Chunk(lives, configTopics) {
		names := make([]string, len(some))
		for i, l := range some {
			names[i] = l.name
		}
		got, err := describeTopics(ctx, cl, names, keys)
		if err != nil {
			all.err = err
			return all
		}
		for _, l := range some {
			if d, ok := got[l.name]; ok {
				all.of[l] = d
			}
		}
	}
	return all
}
