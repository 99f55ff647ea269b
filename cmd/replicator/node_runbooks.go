package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/runbook"
)

// runbooks answers api.Runbooks, and executes those that the fleet assigns to
// this node.
type runbooks struct {
	fleet   *cluster.Node
	actions runbook.Actions
	log     *slog.Logger
}

var _ api.Runbooks = (*runbooks)(nil)

// execute carries an execution on for as long as this node owns it.
func (r *runbooks) execute(ctx context.Context, a cluster.Assignment) error {
	x := runbook.NewExecutor(runbook.Config{
		ID: a.Work.Name, Node: r.fleet.Name(), Store: executions{r.fleet, a.Epoch}, Do: r.actions, Log: r.log,
	})
	return x.Run(ctx)
}

func (r *runbooks) declared(name string) (*flow.Runbook, error) {
	s := r.fleet.State()
	o, err := s.Lookup(flow.KindRunbook, name)
	if err != nil {
		return nil, fleetError(err, s.ObjectsRevision)
	}
	return o.Runbook, nil
}

func (r *runbooks) Plan(_ context.Context, name string) (*runbook.Execution, error) {
	rb, err := r.declared(name)
	if err != nil {
		return nil, err
	}
	x, err := runbook.New("plan", rb, "nobody", "", time.Now())
	return &x, err
}

func (r *runbooks) Start(ctx context.Context, name string, by api.Person) (*runbook.Execution, error) {
	rb, err := r.declared(name)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	x, err := runbook.New(name+"-"+now.Format("20060102-150405.000"), rb, by.Name, by.Reason, now)
	if err != nil {
		return nil, err
	}
	return &x, runbookError(runbook.Start(ctx, executions{fleet: r.fleet}, x))
}

func (r *runbooks) Latest(ctx context.Context, name string) (*runbook.Execution, error) {
	all, err := executions{fleet: r.fleet}.List(ctx)
	if err != nil {
		return nil, err
	}
	var latest *runbook.Execution
	for _, rec := range all {
		if rec.Runbook != name {
			continue
		}
		x, err := runbook.Decode(rec.Data)
		if err != nil {
			return nil, fmt.Errorf("execution %s: %w", rec.ID, err)
		}
		if latest == nil || x.Started.After(latest.Started) {
			latest = &x
		}
	}
	if latest == nil {
		return nil, api.Errorf(http.StatusNotFound, "runbook %q has not been run", name)
	}
	return latest, nil
}

func (r *runbooks) Decide(ctx context.Context, name, decision, step string, by api.Person) (*runbook.Execution, error) {
	latest, err := r.Latest(ctx, name)
	if err != nil {
		return nil, err
	}
	who := runbook.Who{By: by.Name, Reason: by.Reason, At: time.Now().UTC()}
	if step == "" && latest.Current < len(latest.Steps) {
		step = latest.Steps[latest.Current].Spec.ID
	}
	events := map[string]runbook.Event{
		"approve": runbook.Approve{Who: who, Step: step}, "confirm": runbook.Confirm{Who: who, Step: step},
		"pause": runbook.Pause{Who: who}, "resume": runbook.Resume{Who: who}, "retry": runbook.Retry{Who: who},
		"rollback": runbook.Rollback{Who: who}, "abort": runbook.Abort{Who: who},
	}
	x, err := runbook.Submit(ctx, executions{fleet: r.fleet}, latest.ID, events[decision])
	return &x, runbookError(err)
}

func runbookError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, runbook.ErrRefused), errors.Is(err, runbook.ErrBusy), errors.Is(err, runbook.ErrConflict):
		return api.Errorf(http.StatusConflict, "%v", err)
	case errors.Is(err, runbook.ErrNotFound):
		return api.Errorf(http.StatusNotFound, "%v", err)
	}
	return err
}

// executions keeps executions in raft. The owner of one has the epoch of its
// assignment, by which a later owner's is told apart; people have none.
type executions struct {
	fleet proposer
	epoch uint64
}

var _ runbook.Store = executions{}

func (s executions) Load(_ context.Context, id string) (runbook.Record, error) {
	e, ok := s.fleet.State().Executions[id]
	if !ok {
		return runbook.Record{}, runbook.ErrNotFound
	}
	return record(id, e), nil
}

func record(id string, e *cluster.Execution) runbook.Record {
	return runbook.Record{ID: id, Runbook: e.Runbook, Data: e.Data, Done: e.Done, Revision: e.Revision}
}

func (s executions) Save(ctx context.Context, r runbook.Record) (uint64, error) {
	res, err := s.fleet.Propose(ctx, &cluster.PutExecution{
		ID: r.ID, Runbook: r.Runbook, Expect: r.Revision, Epoch: s.epoch, Data: r.Data, Done: r.Done,
	})
	switch {
	case errors.Is(err, cluster.ErrConflict):
		return 0, fmt.Errorf("%w: %w", runbook.ErrConflict, err)
	case errors.Is(err, cluster.ErrNotOwner):
		return 0, fmt.Errorf("%w: %w", runbook.ErrNotOwner, err)
	case errors.Is(err, cluster.ErrNotFound):
		return 0, fmt.Errorf("%w: %w", runbook.ErrNotFound, err)
	}
	return res.Number, err
}

func (s executions) List(context.Context) ([]runbook.Record, error) {
	state := s.fleet.State()
	var all []runbook.Record
	for _, id := range sortedNames(state.Executions) {
		all = append(all, record(id, state.Executions[id]))
	}
	return all, nil
}
