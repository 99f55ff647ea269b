package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/mirror"
)

type apiStatus = api.Status

// apiClient calls the fleet over HTTP, as anybody would: any node that lives.
type apiClient struct{ world *world }

// node is the first node that lives.
func (a *apiClient) node() *replicator {
	for _, r := range a.world.fleet {
		select {
		case <-r.process.exited:
		default:
			return r
		}
	}
	return a.world.fleet[0]
}

func (a *apiClient) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, nil, out)
}

func (a *apiClient) post(ctx context.Context, path string, body []byte, out any) error {
	return a.do(ctx, http.MethodPost, path, body, out)
}

func (a *apiClient) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.node().api+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.world.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/yaml")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		refused := &refusal{status: resp.StatusCode, text: fmt.Sprintf("%s %s: %d: %s", method, path, resp.StatusCode, answer)}
		var p api.Error
		if json.Unmarshal(answer, &p) == nil && p.Detail != "" {
			refused.text = fmt.Sprintf("%s %s: %d: %s %v", method, path, resp.StatusCode, p.Detail, p.Errors)
		}
		return refused
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// refusal is an answer of the API that says no.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// insist posts until the fleet has an answer: it may be electing a leader, and then
// cannot tell whether it has agreed. That it has already is an answer too.
func (a *apiClient) insist(ctx context.Context, path string, body []byte, out any) error {
	var unclear error
	err := poll(ctx, 200*time.Millisecond, func() (bool, error) {
		err := a.post(ctx, path, body, out)
		var refused *refusal
		switch {
		case errors.As(err, &refused) && refused.status == http.StatusServiceUnavailable:
			unclear = err
			return false, nil
		case errors.As(err, &refused) && refused.status == http.StatusConflict && unclear != nil:
			return true, nil
		}
		return true, err
	})
	if err != nil && ctx.Err() != nil {
		return errors.Join(err, unclear)
	}
	return err
}

// flow is the status of the story's flow.
func (a *apiClient) flow(ctx context.Context) (api.FlowStatus, error) {
	var status api.Status
	if err := a.get(ctx, "/api/v1/status", &status); err != nil {
		return api.FlowStatus{}, err
	}
	for _, f := range status.Flows {
		if f.Name == flowName {
			return f, nil
		}
	}
	return api.FlowStatus{}, fmt.Errorf("the fleet does not know the flow %s", flowName)
}

// lagZero waits until every partition is copied to its end, and the flow runs.
func (a *apiClient) lagZero(ctx context.Context) (api.FlowStatus, error) {
	var last api.FlowStatus
	err := poll(ctx, 50*time.Millisecond, func() (bool, error) {
		f, err := a.flow(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // a node may just have been killed: ask again
		}
		last = f
		copies := 0
		for _, t := range f.Topics {
			copies += len(t.Partitions)
		}
		return copies == 2*partitions && f.LagRecords == 0 && f.State == string(mirror.Running), nil
	})
	if err != nil {
		err = fmt.Errorf("wait for lag 0: %w; last seen: %s %s, lag %d", err, last.State, last.Reason, last.LagRecords)
	}
	return last, err
}

// folder makes the place for everything and says how to remove it again.
func (w *world) folder() (remove func(), err error) {
	if w.dir != "" {
		if w.dir, err = filepath.Abs(w.dir); err != nil {
			return nil, err
		}
		entries, err := os.ReadDir(w.dir)
		if err == nil && len(entries) > 0 {
			return nil, fmt.Errorf("folder %s is not empty: a demonstration starts from nothing", w.dir)
		}
		return func() {}, os.MkdirAll(w.dir, 0o700)
	}
	if w.dir, err = os.MkdirTemp("", "waybill-demo-"); err != nil {
		return nil, err
	}
	return func() { _ = os.RemoveAll(w.dir) }, nil // a leftover in a temporary folder harms nobody
}

func (w *world) objectsFile() string { return filepath.Join(w.dir, "us-eu.yaml") }

// objectsYAML declares the clusters and the flow as a user would write them.
func (w *world) objectsYAML() string {
	yaml := "# Made by 'replicator demo'.\n"
	for _, d := range []*datacenter{w.us, w.eu} {
		yaml += fmt.Sprintf(`apiVersion: waybill/v1
kind: Cluster
metadata: {name: %s, annotations: {waybill/super-users: "User:admin"}}
spec:
  bootstrapServers: [%q]
  tls: {caFile: %q}
  sasl: {mechanism: SCRAM-SHA-512, username: %s, password: %q}
---
`, d.name, d.address, d.ca(), userReplicator, "${file:"+d.passwordFile(userReplicator)+"}")
	}
	return yaml + fmt.Sprintf(`apiVersion: waybill/v1
kind: ReplicationFlow
metadata: {name: %s}
spec:
  source: us
  destination: eu
  offsets: translate
  topics: {include: ["quakes*"]}
  groups: {include: ["*"]}
`, flowName)
}

func (w *world) connections() Connections {
	c := Connections{Dir: w.dir, Objects: w.objectsFile(), US: w.us.connection(), EU: w.eu.connection(), TokenFile: w.tokenFile("admin")}
	for _, r := range w.fleet {
		c.Fleet = append(c.Fleet, ReplicatorAddress{Name: r.name, API: r.api, PID: r.process.cmd.Process.Pid})
	}
	return c
}
