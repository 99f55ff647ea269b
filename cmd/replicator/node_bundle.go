package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
)

// bundleReadme is the first file of a bundle.
const bundleReadme = `A support bundle of one Waybill node. It holds no secrets: configurations name
where they are, and what this node uses as a secret is taken out of every text. It
does hold names of topics, groups, users and hosts: look through it before you pass
it on.

version.json     program, machine, uptime
status.json      the fleet, clusters and flows, as 'replicator status -o json'
state.json       what the fleet agrees on: objects, nodes, assignments, lanes, the last changes
raft.json        how raft stands on this node
node.json        the node's file
metrics.txt      as Prometheus scrapes them
doctor.json      what the node rests on, as 'replicator doctor -o json'
log.txt          the end of its log
goroutines.txt   where everything stands
heap.pprof       for 'go tool pprof'
errors.txt       what could not be collected, if anything
`

// bundle collects what is needed to understand this node. What cannot be had is
// named in it.
func (o *operations) bundle(ctx context.Context) ([]byte, error) {
	if !o.busy.TryLock() {
		return nil, api.Errorf(http.StatusConflict, "%v", errBusy)
	}
	defer o.busy.Unlock()
	state := o.fleet.State()
	clean := newScrubber(o.secrets.values(state)).clean
	var out, failed bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	now := time.Now()
	put := func(name string, content []byte, err error) error {
		if err != nil {
			fmt.Fprintf(&failed, "%s: %v\n", name, err)
			return nil
		}
		if name != "heap.pprof" { // compressed addresses, without contents
			content = clean(content)
		}
		if err := archive.WriteHeader(&tar.Header{Name: "waybill-" + o.file.Name + "/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: now}); err != nil {
			return err
		}
		_, err = archive.Write(content)
		return err
	}
	for _, part := range o.bundleParts(ctx, state) {
		content, err := part.content()
		if err := put(part.name, content, err); err != nil {
			return nil, err
		}
	}
	if failed.Len() > 0 {
		if err := put("errors.txt", failed.Bytes(), nil); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(archive.Close(), zipped.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

type bundlePart struct {
	name    string
	content func() ([]byte, error)
}

func (o *operations) bundleParts(ctx context.Context, state *cluster.State) []bundlePart {
	pretty := func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") }
	return []bundlePart{
		{"README.txt", func() ([]byte, error) { return []byte(bundleReadme), nil }},
		{"version.json", func() ([]byte, error) {
			return pretty(map[string]any{
				"build": build(), "cpus": runtime.NumCPU(), "maxProcs": runtime.GOMAXPROCS(0), "goroutines": runtime.NumGoroutine(),
				"time": time.Now().UTC(), "upSeconds": time.Since(o.started).Seconds(),
			})
		}},
		{"status.json", func() ([]byte, error) {
			bounded, cancel := context.WithTimeout(ctx, leaderSilence)
			defer cancel()
			s, err := o.flows.Status(bounded)
			if err != nil {
				return nil, err
			}
			return pretty(s)
		}},
		{"state.json", func() ([]byte, error) { return pretty(openState(state)) }},
		{"raft.json", func() ([]byte, error) { return pretty(o.fleet.Raft()) }},
		{"node.json", func() ([]byte, error) { return pretty(o.inForce.Load()) }},
		{"metrics.txt", func() ([]byte, error) {
			var w memoryResponse
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
			if err != nil {
				return nil, err
			}
			o.work.metrics.handler.ServeHTTP(&w, r)
			return w.body.Bytes(), nil
		}},
		{"doctor.json", func() ([]byte, error) {
			report, err := o.look(ctx)
			if err != nil {
				return nil, err
			}
			return pretty(report)
		}},
		{"log.txt", func() ([]byte, error) { return o.recent.Bytes(), nil }},
		{"goroutines.txt", func() ([]byte, error) { return profile("goroutine", 2) }},
		{"heap.pprof", func() ([]byte, error) { return profile("heap", 0) }},
	}
}

// memoryResponse takes what a handler answers.
type memoryResponse struct {
	header http.Header
	body   bytes.Buffer
}

func (m *memoryResponse) Header() http.Header {
	if m.header == nil {
		m.header = http.Header{}
	}
	return m.header
}

func (m *memoryResponse) WriteHeader(int)             {}
func (m *memoryResponse) Write(p []byte) (int, error) { return m.body.Write(p) }

func profile(name string, debug int) ([]byte, error) {
	var b bytes.Buffer
	err := pprof.Lookup(name).WriteTo(&b, debug)
	return b.Bytes(), err
}

// openState is the part of the state that may be shown: what is named, so that a
// later secret in the state does not get out by itself.
func openState(s *cluster.State) any {
	hash, err := s.Hash()
	sum := fmt.Sprintf("%x", hash)
	if err != nil {
		sum = err.Error()
	}
	return struct {
		Hash            string                        `json:"hash"`
		FleetID         string                        `json:"fleetId"`
		ObjectsRevision uint64                        `json:"objectsRevision"`
		Objects         map[string]cluster.Object     `json:"objects"`
		Members         map[string]cluster.Member     `json:"members"`
		Flows           map[string]*cluster.Flow      `json:"flows"`
		Executions      map[string]*cluster.Execution `json:"executions"`
		Lanes           map[string]cluster.Lane       `json:"lanes"`
		Ledgers         map[string]cluster.Ledger     `json:"ledgers"`
		Trail           []cluster.Record              `json:"trail"`
	}{sum, s.FleetID, s.ObjectsRevision, s.Objects, s.Members, s.Flows, s.Executions, s.Lanes, s.Ledgers, s.Trail}
}
