package main

import (
	"context"

	"github.com/waybillhq/waybill/cluster"
)

// runFlowDuty finds a flow's topics and moves its groups, for as long as the
// duty is this node's.
func (l *life) runFlowDuty(ctx context.Context, a cluster.Assignment, d *duty) error {
	f, err := declaredFlow(l.fleet.State(), a.Work.Name)
	if err != nil {
		return err
	}
	s, err := l.groups.syncer(f)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
