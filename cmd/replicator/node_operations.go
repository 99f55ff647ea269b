package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/doctor"
)

// operations answers api.Operations: for this node itself, for others by asking
// them.
type operations struct {
	*node
	busy sync.Mutex // one look or bundle at a time: they cost something
}

var _ api.Operations = (*operations)(nil)

// Paths for other nodes, and how long and large their answers may be.
const (
	peerDoctor      = "/waybill/doctor"
	peerBundle      = "/waybill/support-bundle"
	peerClock       = "/waybill/clock"
	peerSlow        = doctor.Limit + 15*time.Second
	peerReportBytes = 16 << 20
	peerBundleBytes = 64 << 20
)

var errBusy = errors.New("this node is looking at itself already: ask again in a minute")

// handle answers other nodes.
func (o *operations) handle(mux *http.ServeMux) {
	mux.HandleFunc("GET "+peerDoctor, func(w http.ResponseWriter, r *http.Request) {
		report, err := o.examine(r.Context())
		answerPeer(w, report, err)
	})
	mux.HandleFunc("GET "+peerBundle, func(w http.ResponseWriter, r *http.Request) {
		content, err := o.bundle(r.Context())
		if err != nil {
			answerPeer(w, nil, err)
			return
		}
		_, _ = w.Write(content) // the other may have gone
	})
	mux.HandleFunc("GET "+peerClock, func(w http.ResponseWriter, _ *http.Request) { answerPeer(w, time.Now(), nil) })
}

func (o *operations) Doctor(ctx context.Context, node string) ([]doctor.Report, error) {
	var names []string
	switch node {
	case "":
		names = []string{o.fleet.Name()}
	case api.AllNodes:
		names = sortedNames(o.fleet.State().Members)
	default:
		names = []string{node}
	}
	if err := knownNodes(o.fleet.State(), names); err != nil {
		return nil, err
	}
	reports := make([]doctor.Report, len(names))
	var looking sync.WaitGroup
	for i, name := range names {
		looking.Go(func() {
			var err error
			if reports[i], err = o.reportOf(ctx, name); err != nil {
				reports[i] = doctor.Report{Node: name, Time: time.Now().UTC(), Findings: []doctor.Finding{{
					Check: doctor.Reach, Where: "node " + name, Level: doctor.Error, Found: err.Error(), ToDo: "see whether the node runs, and whether its peer address is reachable",
				}}}
			}
		})
	}
	looking.Wait()
	return reports, nil
}

func knownNodes(s *cluster.State, names []string) error {
	for _, name := range names {
		if _, ok := s.Members[name]; !ok {
			return api.Errorf(http.StatusNotFound, "the fleet has no node %q", name).WithHint("see 'replicator status'; its nodes are %s", strings.Join(sortedNames(s.Members), ", "))
		}
	}
	return nil
}

func (o *operations) reportOf(ctx context.Context, name string) (r doctor.Report, err error) {
	if name == o.fleet.Name() {
		return o.examine(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, peerSlow)
	defer cancel()
	b, err := askPeer(ctx, o.fleet, name, peerDoctor, url.Values{}, peerReportBytes)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

func (o *operations) Bundle(ctx context.Context, node string) (api.Bundle, error) {
	if node == "" {
		node = o.fleet.Name()
	}
	if err := knownNodes(o.fleet.State(), []string{node}); err != nil {
		return api.Bundle{}, err
	}
	b := api.Bundle{Name: "waybill-" + node + "-" + time.Now().UTC().Format("20060102-150405") + ".tar.gz"}
	var err error
	if node == o.fleet.Name() {
		b.Content, err = o.bundle(ctx)
		return b, err
	}
	ctx, cancel := context.WithTimeout(ctx, peerSlow)
	defer cancel()
	if b.Content, err = askPeer(ctx, o.fleet, node, peerBundle, url.Values{}, peerBundleBytes); err != nil {
		return b, unreachable(err)
	}
	return b, nil
}

// examine looks at what this node rests on.
func (o *operations) examine(ctx context.Context) (doctor.Report, error) {
	if !o.busy.TryLock() {
		return doctor.Report{}, api.Errorf(http.StatusConflict, "%v", errBusy)
	}
	defer o.busy.Unlock()
	return o.look(ctx)
}

func (o *operations) look(ctx context.Context) (doctor.Report, error) {
	now := time.Now()
	report := doctor.Report{Node: o.fleet.Name(), Version: version, Time: now.UTC(), Findings: []doctor.Finding{}}
	declared, err := o.fleet.State().Declared("")
	if err != nil {
		return report, err
	}
	var parts [3][]doctor.Finding
	var looking sync.WaitGroup
	looking.Go(func() { parts[0] = doctor.Clusters(ctx, declared, now) })
	looking.Go(func() { parts[1] = machineFindings(ctx, o.file, now) })
	looking.Go(func() { parts[2] = slices.Concat(o.fleetFindings(ctx), o.clockFindings(ctx), o.auditFindings()) })
	looking.Wait()
	report.Findings = slices.Concat(parts[1], parts[2], parts[0])
	report.Sort()
	report.Seconds = time.Since(now).Seconds()
	return report, nil
}
