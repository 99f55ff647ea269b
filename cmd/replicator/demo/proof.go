package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/runbook"
)

// groupSynced waits until each position of a group has been committed in eu.
func (a *apiClient) groupSynced(ctx context.Context, group string) error {
	var last []offsets.Row
	var answer error // the last one of the API
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var rows api.GroupRows
		if answer = a.get(ctx, "/api/v1/flows/"+flowName+"/groups", &rows); answer != nil {
			return false, nil // a cluster may not have answered yet: ask again
		}
		last = slices.DeleteFunc(rows.Rows, func(r offsets.Row) bool { return r.Group != group })
		synced := len(last) > 0
		for _, r := range last {
			synced = synced && r.Result.Exact && r.Present == r.Result.Offset
		}
		return synced, nil
	})
	if err != nil {
		err = fmt.Errorf("wait for group %s to stand in eu: %w; last seen: %+v", group, errors.Join(err, answer), last)
	}
	return err
}

const runbookName = "us-eu-failover"

// runbookYAML is a planned failover as an operator would declare it; the shape
// is that of deploy/runbooks/planned-failover.yaml.
const runbookYAML = `# Made by 'replicator demo'.
apiVersion: waybill/v1
kind: Runbook
metadata: {name: us-eu-failover}
spec:
  flow: us-eu
  steps:
    - {id: preflight, check: preflight}
    - {id: caught-up, wait: {lagRecords: 1000}}
    - {id: fence, fence: {principals: ["User:sensors"], watch: 1s}}
    - {id: drain, wait: {lagRecords: 0}}
    - {id: verify, check: verify}
    - {id: offsets, apply: groupOffsets}
    - {id: groups, check: groups}
    - {id: switch, switch: {}}
    - {id: report, report: {}}
`

// failover moves everything to eu by runbook; group reports goes on there.
func (s *story) failover(ctx context.Context) (string, string, error) {
	file := filepath.Join(s.world.dir, runbookName+".yaml")
	if err := os.WriteFile(file, []byte(runbookYAML), 0o600); err != nil {
		return "", "", err
	}
	if _, err := s.api.lagZero(ctx); err != nil { // whoever starts a runbook sees first that the flow runs
		return "", "", err
	}
	if err := s.api.insist(ctx, "/api/v1/apply", []byte(runbookYAML), nil); err != nil {
		return "", "", err
	}
	began := time.Now()
	if err := s.api.insist(ctx, "/api/v1/runbooks/"+runbookName+"/start?reason=demo", nil, nil); err != nil {
		return "", "", err
	}
	var x runbook.Execution
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		if err := s.api.get(ctx, "/api/v1/runbooks/"+runbookName+"/execution", &x); err != nil {
			return false, err
		}
		if x.State == runbook.Stopped {
			return false, fmt.Errorf("the runbook stopped: %s", x.Problem)
		}
		return x.State.Ended(), nil
	})
	if err != nil {
		return "", "", err
	}
	r := &s.report.Runbook
	*r = RunbookReport{Name: runbookName, State: string(x.State), Seconds: time.Since(began).Seconds()}
	for _, step := range x.Steps {
		r.Steps = append(r.Steps, fmt.Sprintf("%s: %s", step.Spec.ID, step.State))
	}
	s.check(x.State == runbook.Completed, "the runbook is %s: %s", x.State, x.Problem)
	s.check(s.fenced(ctx), "a producer could still write to us after the fence")
	figure, proof, err := s.goOn(ctx, userReports)
	if err != nil {
		return "", "", err
	}
	return fmt.Sprintf("%d steps in %.1f s, writers fenced; %s", len(x.Steps), r.Seconds, figure), proof, nil
}

// fenced tries to write to us as the application that the fence is for.
func (s *story) fenced(ctx context.Context) bool {
	cl, err := s.world.us.client(userSensors, "late-writer")
	if err != nil {
		return false
	}
	defer cl.Close()
	err = cl.ProduceSync(ctx, &kgo.Record{Topic: topicQuakes, Value: []byte("too late")}).FirstErr()
	return errors.Is(err, kerr.TopicAuthorizationFailed)
}
