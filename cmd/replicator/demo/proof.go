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
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/runbook"
)

// groupSynced waits until each position of a group has been committed in eu.
func (a *apiClient) groupSynced(ctx context.Context, group string) error {
	var last []offsets.Row
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var rows api.GroupRows
		if err := a.get(ctx, "/api/v1/flows/"+flowName+"/groups", &rows); err != nil {
			return false, nil //nolint:nilerr // a cluster may not have answered yet: ask again
		}
		last = slices.DeleteFunc(rows.Rows, func(r offsets.Row) bool { return r.Group != group })
		synced := len(last) > 0
		for _, r := range last {
			synced = synced && r.Result.Exact && r.Present == r.Result.Offset
		}
		return synced, nil
	})
	if err != nil {
		err = fmt.Errorf("wait for group %s to stand in eu: %w; last seen: %+v", group, err, last)
	}
	return err
}

// lineage asks for one event: the first that a group read in us, so that it has
// been produced, copied and read.
func (s *story) lineage(ctx context.Context) (string, string, error) {
	var event *kgo.Record
	for p := range int32(partitions) {
		if records := s.partial[userAlerts][p]; len(records) > 0 {
			event = records[0]
			break
		}
	}
	if event == nil {
		return "", "", errors.New("group alerts has read nothing")
	}
	address := fmt.Sprintf("us/%s/%d/%d", event.Topic, event.Partition, event.Offset)
	path := "/api/v1/lineage/events/" + address
	l := &s.report.Lineage
	l.Event = address
	l.Curl = fmt.Sprintf(`curl -H "Authorization: Bearer $(cat %s)" %s%s`, s.world.tokenFile("admin"), s.api.node().api, path)
	var answer lineage.Answer
	// Who read it is known once the broker has written it down, within a second.
	err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
		began := time.Now()
		if err := s.api.get(ctx, path, &answer); err != nil {
			return false, err
		}
		l.Millis = float64(time.Since(began).Microseconds()) / 1000
		l.take(&answer)
		return l.ProducedBy != "" && l.CopiedTo != "" && l.ReadBy != "", nil
	})
	if err != nil {
		return "", "", fmt.Errorf("%s: %w; the answer was %+v", l.Curl, err, answer)
	}
	s.check(l.ProducedBy == "User:"+userSensors && l.ClientID == "seismometers", "event %s: produced by %s (%s)", address, l.ProducedBy, l.ClientID)
	s.check(l.Flow == flowName, "event %s: copied by flow %q", address, l.Flow)
	s.check(l.ReadBy == userAlerts || l.ReadBy == userReports, "event %s: read by group %q", address, l.ReadBy)
	return fmt.Sprintf("%s: produced by %s (%s), copied by %s to %s, read by group %s; %.0f ms", address, l.ProducedBy, l.ClientID, l.Flow, l.CopiedTo, l.ReadBy, l.Millis),
		l.Curl, nil
}

// take picks the figures out of an answer.
func (l *LineageReport) take(a *lineage.Answer) {
	for i, n := range a.Nodes {
		for _, d := range n.Produced {
			if n.Origin {
				l.ProducedBy, l.ClientID = d.Principal, d.ClientID
			}
		}
		for _, d := range n.Accesses {
			if d.Group != "" && n.Origin {
				l.ReadBy = d.Group
			}
		}
		for _, e := range a.Edges {
			if e.To == i {
				l.CopiedTo, l.Flow = fmt.Sprintf("%s/%s/%d/%d", n.Cluster, n.Topic, n.Partition, n.Offset), e.Flow
			}
		}
	}
}

// copiedBy is the node of the fleet that copied an event of the live topic.
func (a *apiClient) copiedBy(ctx context.Context, r *kgo.Record) (string, error) {
	var answer lineage.Answer
	if err := a.get(ctx, fmt.Sprintf("/api/v1/lineage/events/us/%s/%d/%d", r.Topic, r.Partition, r.Offset), &answer); err != nil {
		return "", err
	}
	for _, e := range answer.Edges {
		if e.From == 0 {
			return e.ReplicaNode, nil
		}
	}
	return "", fmt.Errorf("no copy of us/%s/%d/%d is known", r.Topic, r.Partition, r.Offset)
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
	if err := s.api.post(ctx, "/api/v1/apply", []byte(runbookYAML), nil); err != nil {
		return "", "", err
	}
	began := time.Now()
	if err := s.api.post(ctx, "/api/v1/runbooks/"+runbookName+"/start?reason=demo", nil, nil); err != nil {
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
