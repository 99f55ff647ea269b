package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/fold"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// folds answers api.LineageFolds: the node that is asked folds, and no other of the fleet
// meanwhile.
type folds struct {
	fleet       proposer
	name, group string // of the node, and of its fleet
	directory   *directory
	log         *slog.Logger

	mu   sync.Mutex
	busy map[string]bool // cluster.ids
}

// foldedLedger is one that is folded.
type foldedLedger struct {
	cluster, id string
	topic       ledger.TopicID
	partitions  []int32
	dial        func(opts ...kgo.Opt) (*kgo.Client, error)
}

func (f *folds) Fold(ctx context.Context, caller api.Caller, name string, req api.FoldRequest) (*api.FoldReport, error) {
	l, err := f.find(ctx, caller, name)
	if err != nil {
		return nil, err
	}
	end, err := f.begin(ctx, l, caller, req.DryRun)
	if err != nil {
		return nil, err
	}
	defer end()
	r, err := f.fold(ctx, l, req)
	if err != nil {
		return nil, foldError(name, err)
	}
	return r, nil
}

// find looks for the ledger of a cluster, and whether the caller may have it folded.
func (f *folds) find(ctx context.Context, caller api.Caller, name string) (*foldedLedger, error) {
	entry, err := f.directory.entry(name)
	if errors.Is(err, errNoSuchCluster) {
		return nil, api.Errorf(http.StatusNotFound, "%v", err)
	}
	if err != nil {
		return nil, unreachable(err)
	}
	id, err := f.directory.id(name)
	if err != nil {
		return nil, unreachable(err)
	}
	if !f.directory.allowed(ctx, name, caller.Principals[name], caller.Address, acl.Alter, acl.Cluster, acl.ClusterName) {
		return nil, api.Errorf(http.StatusForbidden, "you may not alter cluster %s", name).
			WithHint("Alter on the cluster is needed, for the principal that you are mapped to there")
	}
	topics, err := kadm.NewClient(entry.client).ListTopicsWithInternal(ctx, ledger.Topic)
	if err == nil {
		err = topics[ledger.Topic].Err
	}
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, api.Errorf(http.StatusNotFound, "cluster %s has no ledger: there is no topic %s, or it is not shown", name, ledger.Topic)
	case err != nil:
		return nil, unreachable(fmt.Errorf("cluster %s: %w", name, err))
	}
	l := &foldedLedger{cluster: name, id: id, topic: ledger.TopicID(topics[ledger.Topic].ID)}
	for p := range topics[ledger.Topic].Partitions {
		l.partitions = append(l.partitions, p)
	}
	slices.Sort(l.partitions)
	l.dial = func(opts ...kgo.Opt) (*kgo.Client, error) {
		return kafka.NewClient(entry.declared, f.directory.clientID, opts...)
	}
	return l, nil
}

// begin keeps others of the fleet from folding the same ledger until end is called. Who only
// looks keeps this node busy, and no other.
func (f *folds) begin(ctx context.Context, l *foldedLedger, caller api.Caller, dry bool) (end func(), err error) {
	f.mu.Lock()
	busy := f.busy[l.id]
	f.busy[l.id] = true
	f.mu.Unlock()
	if busy {
		return nil, api.Errorf(http.StatusConflict, "this node is folding the ledger of cluster %s already", l.cluster).WithHint("wait for it")
	}
	free := func() {
		f.mu.Lock()
		delete(f.busy, l.id)
		f.mu.Unlock()
	}
	if dry {
		return free, nil
	}
	by := cluster.Folding{ID: uuid.NewString(), Node: f.name, Incarnation: f.fleet.State().Members[f.name].Incarnation, By: caller.Name, Since: time.Now()}
	if _, err := f.fleet.Propose(ctx, &cluster.BeginFold{ClusterID: l.id, TopicID: l.topic.String(), Folding: by}); err != nil {
		free()
		return nil, f.refusal(l, err)
	}
	return func() {
		// Not by the call: who has gone has nobody to end it.
		ctx, cancel := context.WithTimeout(context.Background(), endFoldLimit)
		defer cancel()
		if _, err := f.fleet.Propose(ctx, &cluster.EndFold{ClusterID: l.id, ID: by.ID}); err != nil {
			f.log.Warn("the fleet does not know that a ledger is folded no more: others than this node cannot fold it until it is asked again, or restarts", "cluster", l.cluster, "error", err)
		}
		free()
	}, nil
}

// endFoldLimit is how long an election may hold up that others learn of a fold's end.
const endFoldLimit = 10 * time.Second

// refusal says why the fleet does not let this node fold.
func (f *folds) refusal(l *foldedLedger, err error) error {
	now := f.fleet.State().Ledgers[l.id].Folding
	switch {
	case errors.Is(err, cluster.ErrConflict) && now != nil:
		return api.Errorf(http.StatusConflict, "node %s is folding the ledger of cluster %s, since %s, for %s", now.Node, l.cluster, now.Since.Format(time.RFC3339), now.By).
			WithHint("wait for it; if it runs no more, ask that node, or restart it")
	case errors.Is(err, cluster.ErrConflict):
		return api.Errorf(http.StatusConflict, "%v", err).WithHint("wait for it")
	case errors.Is(err, cluster.ErrIncarnationEnded):
		return unreachable(fmt.Errorf("this node takes no part in the fleet's work now: %w", err))
	case errors.Is(err, cluster.ErrNotFound):
		return unreachable(fmt.Errorf("the fleet has not found the ledger of cluster %s yet", l.cluster))
	}
	return fleetError(err, 0)
}

// fold folds all partitions, and deletes in none before each is proved.
func (f *folds) fold(ctx context.Context, l *foldedLedger, req api.FoldRequest) (*api.FoldReport, error) {
	r := &api.FoldReport{Cluster: l.cluster, TopicID: l.topic.String(), DryRun: req.DryRun, Partitions: []api.FoldedPartition{}}
	logs := map[int32]*tail.Log{}
	for _, p := range l.partitions {
		log, err := tail.OpenLog(tail.LogConfig{Dial: l.dial, Cluster: l.id, TopicID: l.topic, Partition: p})
		if err != nil {
			return nil, err
		}
		defer log.Close()
		logs[p] = log
		if !req.Delete {
			continue
		}
		// A deletion of nothing shows whether one is allowed, before much is written.
		start, _, err := log.Extent(ctx)
		if err == nil {
			err = log.Delete(ctx, start)
		}
		if err != nil {
			return nil, err
		}
	}
	for _, p := range l.partitions {
		work := fold.Make
		if req.DryRun {
			work = fold.Weigh
		}
		w, err := work(ctx, logs[p], fold.Order{
			Cluster: l.id, By: fold.Author{Writer: newWriter(), Fleet: f.group, Node: f.name}, At: time.Now(), Before: req.Before,
			Witness: offsets.NewWitness(l.id, p),
		})
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", p, err)
		}
		f.log.Info("ledger partition is folded", "cluster", l.cluster, "partition", p, "start", w.Start, "below", w.Below, "bytes", w.Bytes, "foldBytes", w.FoldBytes, "wrote", w.Wrote, "dryRun", req.DryRun)
		r.Partitions = append(r.Partitions, api.FoldedPartition{
			Partition: p, Start: w.Start, Below: w.Below, Pages: w.Pages, Bytes: w.Bytes, FoldPages: w.FoldPages, FoldBytes: w.FoldBytes, Wrote: w.Wrote,
		})
	}
	if !req.Delete || req.DryRun {
		return r, nil
	}
	for i := range r.Partitions {
		p := &r.Partitions[i]
		if p.Below == p.Start {
			continue
		}
		if err := logs[p.Partition].Delete(ctx, p.Below); err != nil {
			return nil, fmt.Errorf("everything is proved, and deleted in %s of %d: %w", several(i, "partition"), len(r.Partitions), err)
		}
		p.Deleted = true
		f.log.Info("what a fold stands for is deleted", "cluster", l.cluster, "partition", p.Partition, "below", p.Below)
	}
	return r, nil
}

func newWriter() (w ledger.WriterID) {
	_, _ = rand.Read(w[:]) // never fails
	return w
}

// foldError gives what ended a fold its status.
func foldError(name string, err error) error {
	switch {
	case errors.As(err, new(*fold.RefusedError)), errors.Is(err, fold.ErrNotProved):
		return api.Errorf(http.StatusConflict, "the ledger of cluster %s is not folded, and nothing is deleted: %v", name, err).
			WithHint("see what 'replicator lineage check %s' finds: a ledger in which anything is missing, altered or contradictory stays as it is, as evidence", name)
	case errors.Is(err, tail.ErrRecreated), errors.Is(err, tail.ErrWrongCluster), errors.Is(err, tail.ErrMissing):
		return api.Errorf(http.StatusConflict, "the ledger of cluster %s: %v", name, err)
	case errors.As(err, new(*kerr.Error)) && !kerr.IsRetriable(kafkaCode(err)):
		return api.Errorf(http.StatusConflict, "the ledger of cluster %s: %v", name, err).
			WithHint("the fleet's user needs Read, Write and Delete on topic %s", ledger.Topic)
	}
	return unreachable(fmt.Errorf("the ledger of cluster %s: %w", name, err))
}

// kafkaCode is the cluster's own answer in an error.
func kafkaCode(err error) error {
	var code *kerr.Error
	errors.As(err, &code)
	return code
}
