package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
)

// nodes answers api.Fleet.
type nodes struct {
	fleet *cluster.Node
	log   *slog.Logger
}

var _ api.Fleet = (*nodes)(nil)

func (n *nodes) Drain(ctx context.Context, name string, draining, force bool, by api.Person) error {
	if err := n.fleet.Barrier(ctx); err != nil {
		return fleetError(err, 0)
	}
	members := n.fleet.State().Members
	if _, ok := members[name]; !ok {
		return api.Errorf(http.StatusNotFound, "the fleet has no node %q", name).WithHint("see 'replicator status'")
	}
	if draining && !force && !othersCanWork(members, name) {
		return api.Errorf(http.StatusConflict, "no other node can be given work: all that %s copies would stop", name).
			WithHint("start or undrain another node first, or force it")
	}
	n.log.Info("drain", "member", name, "draining", draining, "force", force, "by", by.Name, "reason", by.Reason)
	return fleetError(n.fleet.Drain(ctx, name, draining), 0)
}

// othersCanWork reports whether a node besides one may be given work. Whether a
// pinned flow finds one among them is another question, which its status answers.
func othersCanWork(members map[string]cluster.Member, besides string) bool {
	for name, m := range members {
		if name != besides && m.Incarnation != 0 && !m.Draining && !m.Stopping {
			return true
		}
	}
	return false
}
