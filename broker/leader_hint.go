package broker

import (
	"github.com/twmb/franz-go/pkg/kerr"
)

// leaderHint is the leader of a partition as an answer tells it beside an error
// (KIP-951), so that the client need not ask for metadata.
type leaderHint struct{ id, epoch int32 }

// leaderHint returns who leads a partition, if the error is one that a client
// looks for the leader after, and there is one.
func (b *Broker) leaderHint(code int16, topic string, partition int32) (leaderHint, bool) {
	if code != kerr.NotLeaderForPartition.Code && code != kerr.FencedLeaderEpoch.Code {
		return leaderHint{}, false
	}
	p, err := b.partition(topic, partition)
	if err != nil || p.Closed() {
		return leaderHint{}, false
	}
	return leaderHint{b.cfg.NodeID, p.LeaderEpoch()}, true
}

// endpoint is this broker as the clients of a client's listener reach it.
func (b *Broker) endpoint(c *Client) (id int32, host string, port int32) {
	ln := b.listeners[c.Listener]
	return b.cfg.NodeID, ln.host, ln.port
}
