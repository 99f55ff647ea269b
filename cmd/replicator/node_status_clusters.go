package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// The states of clusters.
const (
	clusterConnecting  = "connecting"
	clusterReachable   = "reachable"
	clusterUnreachable = "unreachable"
)

// ledgerMissing is the state of a ledger that the cluster had and does not show.
const ledgerMissing = "missing"

// clusterStatuses are the declared clusters by name, and their ledgers, as this
// node sees them.
func clusterStatuses(d *directory, l *ledgers) []api.ClusterStatus {
	all := []api.ClusterStatus{}
	states := l.states()
	for _, e := range d.list() {
		c := d.status(e)
		c.Ledger.State = string(tail.Connecting)
		if s, ok := states[c.ID]; ok && c.ID != "" {
			c.Ledger = ledgerStatus(c.Name, s, l.doubts(c.ID))
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b api.ClusterStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (d *directory) status(e *clusterEntry) api.ClusterStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := api.ClusterStatus{Name: e.declared.Metadata.Name, ID: e.id, State: clusterReachable}
	switch {
	case e.err != nil:
		c.State, c.Reason, c.ToDo = clusterUnreachable, e.err.Error(), kafka.Advice(e.err)
	case !e.asked:
		c.State = clusterConnecting
	}
	return c
}

func ledgerStatus(name string, s tail.State, doubts []api.LedgerDoubt) api.LedgerStatus {
	l := api.LedgerStatus{State: string(s.Status), Damaged: s.Damaged, Doubts: doubts}
	for _, p := range s.Partitions {
		l.Behind += max(0, p.End-p.Next)
	}
	for _, d := range s.Damage {
		l.Damage = append(l.Damage, api.LedgerDamage{
			Topic: ledger.Topic, Partition: d.Position.Partition, Offset: d.Position.Offset, Reason: d.Err.Error(), Harmless: harmless(d.Err),
		})
	}
	if errors.Is(s.Err, tail.ErrMissing) {
		l.State = ledgerMissing
	}
	if s.Err != nil {
		l.Reason, l.ToDo = s.Err.Error(), ledgerAdvice(s.Err)
		return l
	}
	for _, d := range doubts {
		if d.WaivedBy != "" {
			continue
		}
		l.Reason = fmt.Sprintf("pages may be lost at %s; uncertain copies: %d", d.Reason, d.Copies)
		l.ToDo = fmt.Sprintf("see who else can write to the ledger and compare the copies of partition %d; then 'replicator ledger waive %s/%d/%d' lets uncertain ones go on from what the rest of the ledger says", d.Partition, name, d.Partition, d.Offset)
		return l
	}
	return l
}

// harmless says that no page is lost with what was found: it never was one, or
// it is there twice.
func harmless(err error) bool {
	if corrupt, ok := errors.AsType[*ledger.CorruptError](err); ok {
		return corrupt.Foreign
	}
	chain, ok := errors.AsType[*ledger.ChainError](err)
	return ok && chain.Old()
}

func ledgerAdvice(err error) string {
	switch {
	case errors.Is(err, tail.ErrMissing), errors.Is(err, tail.ErrRecreated), errors.Is(err, tail.ErrTruncated):
		return "without its ledger nobody knows what was copied, so nothing is copied into this cluster; if it is lost for good, delete the copies and let a new fleet begin"
	case errors.Is(err, tail.ErrWrongCluster):
		return kafka.Advice(kafka.ErrWrongCluster)
	}
	return kafka.Advice(err)
}
