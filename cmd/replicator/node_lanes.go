package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/mirror"
)

// lanes keeps the mirror's register of lanes in raft, under the session's
// incarnation.
type lanes struct {
	fleet   proposer
	session *cluster.Session
}

var _ mirror.Lanes = lanes{}

func (l lanes) Register(ctx context.Context, lane mirror.Lane) error {
	err := l.session.RegisterLane(ctx, cluster.Lane{
		ID: lane.TransactionalID, ClusterID: lane.ClusterID, ProducerID: lane.ProducerID, ProducerEpoch: lane.ProducerEpoch,
	})
	if errors.Is(err, cluster.ErrIncarnationEnded) {
		return fmt.Errorf("%w: %w", mirror.ErrEnded, err)
	}
	return err
}

func (l lanes) Ended(_ context.Context, clusterID string) ([]mirror.Lane, error) {
	var out []mirror.Lane
	for _, lane := range l.fleet.State().LanesToFence(clusterID) {
		out = append(out, mirror.Lane{TransactionalID: lane.ID, ClusterID: lane.ClusterID, ProducerID: lane.ProducerID, ProducerEpoch: lane.ProducerEpoch})
	}
	return out, nil
}

func (l lanes) Fenced(ctx context.Context, fenced []mirror.Lane) error {
	ids := make([]string, len(fenced))
	for i, lane := range fenced {
		ids[i] = lane.TransactionalID
	}
	for some := range slices.Chunk(ids, lanesAtOnce) {
		if _, err := l.fleet.Propose(ctx, &cluster.FencedLanes{IDs: some}); err != nil {
			return err
		}
	}
	return nil
}

// lanesAtOnce is how many lanes a command names: some hundred bytes each, of the
// 512 KiB that a command has.
const lanesAtOnce = 500

func (l lanes) Forgotten(_ context.Context, clusterID string) (bool, error) {
	return l.fleet.State().Forgotten(clusterID), nil
}

func (l lanes) Recall(ctx context.Context, clusterID string, found []mirror.FoundLane) error {
	for _, c := range recalls(clusterID, found) {
		if _, err := l.fleet.Propose(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// recalls are the commands that take found lanes up: the last one says that it is.
func recalls(clusterID string, found []mirror.FoundLane) []*cluster.RecallLanes {
	var all []*cluster.RecallLanes
	for some := range slices.Chunk(found, lanesAtOnce) {
		c := &cluster.RecallLanes{ClusterID: clusterID}
		for _, f := range some {
			c.Lanes = append(c.Lanes, cluster.Lane{ID: f.TransactionalID, ClusterID: f.ClusterID, ProducerID: f.ProducerID, Node: f.Node, Incarnation: f.Incarnation})
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		all = append(all, &cluster.RecallLanes{ClusterID: clusterID})
	}
	all[len(all)-1].Done = true
	return all
}

// positions answers from the maps that the ledgers feed.
type positions struct{ *work }

var _ mirror.Positions = positions{}

func (p positions) Position(ctx context.Context, destination string, id ledger.CopyID) (mirror.Position, error) {
	return p.PositionBefore(ctx, destination, id, math.MaxInt64, math.MaxInt64)
}

func (p positions) PositionBefore(ctx context.Context, destination string, id ledger.CopyID, source, at int64) (mirror.Position, error) {
	clusterID, err := p.directory.id(destination)
	if err != nil {
		return mirror.Position{}, err
	}
	pos, err := p.maps.PositionBefore(ctx, clusterID, id, source, at)
	out := mirror.Position{
		Exists: pos.Exists, Plain: pos.Plain, Epoch: pos.Epoch, Fleet: pos.Fleet, Next: pos.Next, Destination: pos.Destination,
		SourceLeaderEpoch: pos.SourceLeaderEpoch, DestinationLeaderEpoch: pos.DestinationLeaderEpoch,
	}
	for _, e := range pos.Epochs {
		out.Epochs = append(out.Epochs, mirror.SourceEpoch(e))
	}
	return out, err
}
