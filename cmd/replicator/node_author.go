package main

import (
	"context"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
)

type touchedKey struct{}

// withTouched says which objects a proposal under ctx is about, for its record.
func withTouched(ctx context.Context, objects []cluster.Touched) context.Context {
	return context.WithValue(ctx, touchedKey{}, objects)
}

// touchedBy leaves out what an apply does not change.
func touchedBy(changes []api.Change) (all []cluster.Touched) {
	for _, c := range changes {
		if c.Action != actionUnchanged {
			all = append(all, cluster.Touched{Key: c.Kind + "/" + c.Name, Action: c.Action, Diff: c.Diff})
		}
	}
	return all
}

// authorOn finds who asks for what is proposed on a node: the call of the API that
// ctx belongs to. What no call leads to has no author.
func authorOn(node string) func(context.Context) *cluster.Author {
	return func(ctx context.Context) *cluster.Author {
		call := api.CallOf(ctx)
		if call == nil {
			return nil
		}
		call.Recorded() // if the fleet refuses it, its answer says so
		objects, _ := ctx.Value(touchedKey{}).([]cluster.Touched)
		return &cluster.Author{
			User: call.Caller.Name, Role: string(call.Caller.Role), Address: call.Caller.Address,
			Node: node, Time: call.Time, Operation: call.Operation, Target: call.Target, Reason: call.Reason, Objects: objects,
		}
	}
}

// freshness answers api.Consistency.
type freshness struct {
	*cluster.Node
	started time.Time
}

func (f freshness) Revision() (uint64, time.Duration) {
	s := f.Raft()
	_, revision := f.Current()
	if !s.Leads && s.SinceContact == 0 { // it has never heard of a leader
		return revision, time.Since(f.started)
	}
	return revision, s.SinceContact
}
