package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/kafka"
)

// A fleet that was restored from a backup has forgotten the lanes that were opened
// after it, and a node of the old fleet that was only suspended goes on with them when
// it wakes. The destination has not forgotten: a coordinator knows each transactional
// id that was ever initialised, until it expires, and a lane is initialised before it is
// registered or used. So before the first copy to a destination begins, its coordinators
// are asked for the lanes of the fleet's name, and the register takes up those that no
// living incarnation has. Then they are fenced as all others are.

// recall brings back the lanes at a destination that the register has forgotten, once
// for each destination. Copies wait for it: a destination that does not answer cannot
// be copied to either.
func (t *takeover) recall(ctx context.Context, destination *peer) error {
	forgotten, err := t.cfg.Lanes.Forgotten(ctx, destination.id)
	if err != nil {
		return fmt.Errorf("ask whether lanes are forgotten: %w", err)
	}
	if !forgotten {
		return nil
	}
	started := time.Now()
	log := t.log.With("cluster", destination.cluster.Metadata.Name)
	listed, err := listTransactions(ctx, destination, t.cfg.ClientID, lanePrefix(t.cfg.Fleet))
	if errors.Is(err, errNoListing) {
		// Waiting would not help, and the brokers that this is made for can tell.
		log.Warn("the cluster cannot list transactions: lanes of the fleet that the backup was taken of, opened after the backup, are not fenced; be sure that none of its processes is left", "err", err)
	} else if errors.Is(err, errHidden) {
		log.Warn("the cluster does not show whether each transactional id has a coordinator: lanes of one that was changing just now are not fenced; be sure that no process of the fleet that the backup was taken of is left, or allow Describe on "+transactionTopic+" before a restore", "err", err)
	} else if err != nil {
		return fmt.Errorf("look for lanes that the restored fleet has forgotten: %w", err)
	}
	found := foundLanes(listed, t.cfg.Fleet, destination.id)
	if err := t.cfg.Lanes.Recall(ctx, destination.id, found); err != nil {
		return fmt.Errorf("record lanes that the restored fleet has forgotten: %w", err)
	}
	log.Info("the fleet was restored: looked for lanes opened after the backup", "found", len(found), "took", time.Since(started))
	return nil
}

// lanePrefix is how the transactional ids of all lanes of a fleet begin. A restored
// fleet has the name of the old one, or it could not go on with its copies. A fleet's
// name has no dots, so no other fleet's ids begin like that.
func lanePrefix(fleet string) string { return "waybill." + fleet + "." }

// foundLane is laneID backwards: the lane of the fleet that an id names, at a cluster.
func foundLane(id, fleet, clusterID string) (FoundLane, bool) {
	rest, ours := strings.CutPrefix(id, lanePrefix(fleet))
	rest, number, numbered := cutLast(rest)
	rest, local := strings.CutSuffix(rest, "."+clusterID) // an id may have dots
	node, incarnation, lives := cutLast(rest)             // a node's name, too
	n, err := strconv.ParseUint(incarnation, 10, 64)
	_, err2 := strconv.ParseUint(number, 10, 31)
	if !ours || !numbered || !local || !lives || node == "" || err != nil || err2 != nil {
		return FoundLane{}, false
	}
	return FoundLane{Lane: Lane{TransactionalID: id, ClusterID: clusterID}, Node: node, Incarnation: n}, true
}

// cutLast cuts around the last dot.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// foundLanes are the lanes of the fleet among what coordinators have listed, in order
// of id. Who lives is not for it to say.
func foundLanes(listed map[string]int64, fleet, clusterID string) []FoundLane {
	var found []FoundLane
	for _, id := range slices.Sorted(maps.Keys(listed)) {
		if l, ok := foundLane(id, fleet, clusterID); ok {
			l.ProducerID = listed[id]
			found = append(found, l)
		}
	}
	return found
}

// errNoListing says that a broker does not know ListTransactions (KIP-664).
var errNoListing = errors.New("a broker does not know ListTransactions")

// transactionTopic is where Apache Kafka keeps what its coordinators know: the leader
// of a partition is the coordinator of its share of the transactional ids.
const transactionTopic = "__transaction_state"

// listTransactions asks every broker for the transactional ids with a prefix that it
// coordinates, in any state, and returns them with their producer ids. An id is on one
// broker: so all must answer, and none may have taken over from another meanwhile. With
// errNoListing it returns what the others have answered, and with errHidden what all have.
func listTransactions(ctx context.Context, p *peer, clientID, prefix string) (map[string]int64, error) {
	before, err := coordinators(ctx, p)
	if err != nil {
		return nil, err
	}
	listed := map[string]int64{}
	var without error
	for id, addr := range before.brokers {
		switch err := listAt(ctx, p, addr, clientID, prefix, listed); {
		case errors.Is(err, errNoListing):
			without = err
		case err != nil:
			return nil, fmt.Errorf("broker %d: ListTransactions: %w", id, err)
		}
	}
	after, err := coordinators(ctx, p)
	if err != nil {
		return nil, err
	}
	if !maps.Equal(before.leaders, after.leaders) {
		return nil, errCoordinatorsMoved
	}
	if without == nil && after.hidden {
		without = errHidden
	}
	return listed, without
}

// errHidden says that nobody can tell whether each partition of the topic had a leader.
var errHidden = errors.New(transactionTopic + " is not shown to this principal")

var errCoordinatorsMoved = errors.New("coordinators of transactions moved while they were asked")

// coordination is who coordinates transactions.
type coordination struct {
	brokers map[int32]string     // address by id
	leaders map[int32]leadership // by partition of the topic; empty if the cluster does not show it
	hidden  bool                 // there may be such a topic, and we may not see it
}

type leadership struct{ leader, epoch int32 }

// coordinators asks the cluster each time: what a client remembers for some seconds would
// show no coordinator that moves.
func coordinators(ctx context.Context, p *peer) (coordination, error) {
	v, err := readView(ctx, p.client, []string{transactionTopic})
	if err != nil {
		return coordination{}, err
	}
	return coordinationOf(v)
}

// coordinationOf refuses what leaves transactional ids without a broker to tell of them.
func coordinationOf(v *view) (coordination, error) {
	c := coordination{brokers: v.brokers, leaders: map[int32]leadership{}}
	if len(c.brokers) == 0 {
		return c, errors.New("the cluster names no broker")
	}
	t := v.topic(transactionTopic)
	switch {
	case errors.Is(t.err, kerr.TopicAuthorizationFailed):
		c.hidden = true
		return c, nil
	case errors.Is(t.err, kerr.UnknownTopicOrPartition):
		return c, nil // it is kept elsewhere, or there were no transactions
	case t.err != nil:
		return c, fmt.Errorf("%s: %w", transactionTopic, t.err)
	}
	for i := range t.partitions {
		at := int32(i)
		leader, epoch, err := v.leader(transactionTopic, at)
		if err != nil {
			return c, err
		}
		c.leaders[at] = leadership{leader, epoch}
	}
	return c, nil
}

// listVersion is that of ListTransactions from which on it takes a pattern (KIP-1152);
// older brokers list all ids that the caller may see.
const listVersion = 2

// listPatience bounds the talk with one broker: one that hangs is asked again.
const listPatience = 30 * time.Second

func listAt(ctx context.Context, p *peer, addr, clientID, prefix string, into map[string]int64) error {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	conn, err := kafka.Dial(ctx, p.cluster, addr, clientID)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	req := kmsg.NewPtrListTransactionsRequest()
	pattern := regexp.QuoteMeta(prefix) + ".*"
	req.TransactionalIDPattern = &pattern
	answer, err := conn.Request(ctx, req, listVersion)
	if err != nil {
		return listFault(err)
	}
	resp := answer.(*kmsg.ListTransactionsResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return listFault(err)
	}
	for _, s := range resp.TransactionStates {
		into[s.TransactionalID] = s.ProducerID
	}
	return nil
}

// listFault tells a broker that will never answer from one that may.
func listFault(err error) error {
	if _, without := errors.AsType[*kafka.VersionError](err); without || errors.Is(err, kerr.UnsupportedVersion) {
		return fmt.Errorf("%w: %w", errNoListing, err)
	}
	return err
}
