package offsets

import (
	"cmp"
	"context"
	"fmt"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
)

// peers are the sources of other flows that lead into a flow's topics, as far as one
// round has asked them. Where a group reads them, too, its positions there count.
type peers struct {
	ask    func(clusterID string) Cluster
	groups []Group
	known  map[string]*peer // by cluster.id; nil if there is no such cluster
}

// peer is one cluster, asked once for all groups of a round.
type peer struct {
	cluster Cluster
	commits map[string]map[flow.TopicPartition]Commit
	topics  map[string]ledger.TopicID
	unread  GroupErrors // why the commits of groups cannot be had
	err     error       // or those of all
}

// share is where a group stands at the source of a copy. It is not known where the
// cluster is not declared, or the group has committed nothing there: its records are
// then nothing that the group has asked for.
func (p *peers) share(ctx context.Context, m *Map, group string) (_ Share, known bool, _ error) {
	source, name := m.ID().Source, m.Labels().SourceTopic
	c := p.of(ctx, source.Cluster)
	if c == nil {
		return Share{}, false, nil
	}
	if err := cmp.Or(c.err, c.unread[group]); err != nil {
		return Share{}, false, fmt.Errorf("where the group stands in %s, from where flow %s writes the same partition: %w", m.Labels().SourceCluster, m.Labels().Flow, err)
	}
	at, ok := c.commits[group][flow.TopicPartition{Topic: name, Partition: source.Partition}]
	if !ok {
		return Share{}, false, nil
	}
	if _, asked := c.topics[name]; !asked {
		ids, err := c.cluster.Topics(ctx, []string{name})
		if err != nil {
			return Share{}, false, fmt.Errorf("source %s of another flow: %w", m.Labels().SourceCluster, err)
		}
		c.topics[name] = ids[name]
	}
	if c.topics[name] != source.TopicID {
		return Share{}, false, nil // the position is one in another life of the topic
	}
	return Share{m, at.Offset}, true, nil
}

func (p *peers) of(ctx context.Context, id string) *peer {
	if c, asked := p.known[id]; asked || p.ask == nil {
		return c
	}
	p.known[id] = nil
	if c := p.ask(id); c != nil {
		commits, unread, err := commitsOf(ctx, c, without(p.groups, sharing))
		if err == nil {
			addStarts(ctx, c, p.groups, commits, unread)
		}
		p.known[id] = &peer{c, commits, map[string]ledger.TopicID{}, unread, err}
	}
	return p.known[id]
}
