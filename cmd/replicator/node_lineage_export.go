package main

import (
	"context"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/lineage/export"
	"github.com/waybillhq/waybill/lineage/search"
)

// OpenLineage answers api.Lineage.
func (l *eventLineage) OpenLineage(ctx context.Context, caller api.Caller, at lineage.Address) ([]export.RunEvent, error) {
	g, err := l.Topic(ctx, caller, at, lineage.PaceQuery{})
	if err != nil {
		return nil, err
	}
	return export.OpenLineage(g, l.directory.server), nil
}

// server is the first address that a cluster.id is declared with, "" if it is not.
func (d *directory) server(id string) string {
	name, ok := d.name(id)
	if !ok {
		return ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.entries[name]
	if e == nil || len(e.declared.Spec.BootstrapServers) == 0 {
		return ""
	}
	return e.declared.Spec.BootstrapServers[0]
}

// Spans answers api.Lineage. What the record itself says is left out where the caller
// may not read it, or nobody can any more.
func (l *eventLineage) Spans(ctx context.Context, caller api.Caller, at lineage.Address) (*export.Traces, error) {
	a, err := l.Event(ctx, caller, at, lineage.HeadersNone)
	if err != nil {
		return nil, err
	}
	var made *export.Creation
	if !a.Nodes[0].EarlierLife {
		if trace, ok := l.searcher.TraceAt(ctx, search.Caller(asking(caller)), at.Cluster, at.Topic, at.Partition, at.Offset); ok {
			made = &export.Creation{TraceID: trace.TraceID, SpanID: trace.SpanID, Flags: trace.Flags}
		}
	}
	return export.Spans(a, made, version), nil
}

// Digests answers api.Lineage.
func (l *eventLineage) Digests(ctx context.Context, caller api.Caller, q search.DigestQuery) ([]search.Digest, int64, error) {
	rows, next, err := l.searcher.Digests(ctx, search.Caller(asking(caller)), q)
	return rows, next, searchError(err)
}
