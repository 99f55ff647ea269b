package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/ledger"
)

// inquirer finds out where batches are from that a flow's copies have met: it reads
// the ledger of the source's cluster, once for all that ask. A copy with an open
// question is not fetched until it is answered.
type inquirer struct {
	origins Origins
	source  *peer
	mirrors *mirrorTopics
	wake    chan struct{}

	mu   sync.Mutex
	open map[*copier]inquiry
}

type inquiry struct {
	question
	generation uint64
	about      *provenance
}

func newInquirer(o Origins, source *peer, m *mirrorTopics) *inquirer {
	return &inquirer{origins: o, source: source, mirrors: m, wake: make(chan struct{}, 1), open: map[*copier]inquiry{}}
}

const (
	// ledgerPatience is how long one reading of the source's ledger may take before
	// the copies that wait say so.
	ledgerPatience = 10 * time.Second
	// hopPoll is how often it is looked whether the ledger's reader has come by an
	// answer: what a lane has committed is there within some milliseconds.
	hopPoll = 2 * time.Millisecond
)

// ask puts a copier's question.
func (i *inquirer) ask(c *copier, generation uint64, q question) {
	about, ok := c.ask(generation, q.offset)
	if !ok {
		return
	}
	i.mu.Lock()
	i.open[c] = inquiry{q, generation, about}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// run answers until the context ends.
func (i *inquirer) run(ctx context.Context) error {
	again := backoff{min: 50 * time.Millisecond, max: 2 * time.Second}
	for ctx.Err() == nil {
		asked := i.list()
		if len(asked) == 0 {
			select {
			case <-i.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := i.readBeside(ctx, asked)
		if ctx.Err() != nil {
			break
		}
		for c, q := range asked {
			if err == nil {
				q.about.learn(q.question)
			}
			i.settle(c, q, err)
		}
		if i.unanswered(asked) == 0 {
			again.n = 0
			continue
		}
		pause := time.NewTimer(again.next())
		select {
		case <-i.wake: // a new question
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	return nil
}

func (i *inquirer) list() map[*copier]inquiry {
	i.mu.Lock()
	defer i.mu.Unlock()
	all := make(map[*copier]inquiry, len(i.open))
	for c, q := range i.open {
		all[c] = q
	}
	return all
}

func (i *inquirer) unanswered(asked map[*copier]inquiry) (n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for c, q := range asked {
		if i.open[c] == q {
			n++
		}
	}
	return n
}

// readBeside reads the ledger, and meanwhile settles what its reader has come by.
func (i *inquirer) readBeside(ctx context.Context, asked map[*copier]inquiry) error {
	done := make(chan error, 1)
	go func() { done <- i.read(ctx, asked) }()
	poll := time.NewTicker(hopPoll)
	defer poll.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-poll.C:
			for c, q := range i.list() {
				if _, ok := q.about.rule(q.question); ok {
					i.settle(c, q, nil)
				}
			}
		}
	}
}

// settle tells a copier that its question is answered or, if it is not, why.
func (i *inquirer) settle(c *copier, q inquiry, err error) {
	if _, ok := q.about.rule(q.question); !ok {
		if err == nil {
			err = q.about.why(q.question)
		}
		if c.unresolved(q.generation, err) {
			return
		}
	} else {
		c.resolved(q.generation)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open[c] == q {
		delete(i.open, c)
	}
}

// read brings what is known up to now: which of the topics are mirrors, and what is
// in the ledger.
func (i *inquirer) read(ctx context.Context, asked map[*copier]inquiry) error {
	ctx, cancel := context.WithTimeout(ctx, ledgerPatience)
	defer cancel()
	about := make([]*provenance, 0, len(asked))
	for _, q := range asked {
		about = append(about, q.about)
	}
	if err := i.mirrors.describe(ctx, about); err != nil {
		return fmt.Errorf("%w: %w", errOrigin, err)
	}
	return i.source.readLedger(ctx, i.origins)
}

// readLedger brings what is known of the cluster's ledger up to now. That there is
// none is believed when no broker knows one: what is taken for local is not asked
// about again.
func (p *peer) readLedger(ctx context.Context, origins Origins) error {
	exists, err := origins.ReadLedger(ctx, p.id)
	if err == nil && !exists {
		err = p.hasNoLedger(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: ledger of cluster %s: %w", errOrigin, p.cluster.Metadata.Name, err)
	}
	return nil
}

// hasNoLedger returns nil if no broker of the cluster knows a ledger. Whoever writes
// copies there has made one first, and written to it; so the broker that leads its
// partition knows it, whichever is behind.
func (p *peer) hasNoLedger(ctx context.Context) error {
	for id := range p.view().brokers {
		req := kmsg.NewPtrMetadataRequest()
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = kmsg.StringPtr(ledger.Topic)
		req.Topics = append(req.Topics, topic)
		resp, err := p.client.Broker(int(id)).RetriableRequest(ctx, req)
		if err != nil {
			return fmt.Errorf("ask broker %d whether there is one: %w", id, err)
		}
		for _, t := range resp.(*kmsg.MetadataResponse).Topics {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case err == nil:
				return errors.New("it has been made just now")
			case !errors.Is(err, kerr.UnknownTopicOrPartition):
				return fmt.Errorf("ask broker %d whether there is one: %w", id, err)
			}
		}
	}
	return nil
}
