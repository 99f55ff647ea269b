package main

import (
	"context"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/lineage"
)

func (l *eventLineage) Copies(ctx context.Context, caller api.Caller, q lineage.RangeQuery) (*lineage.RangePage, error) {
	if q.Cursor == "" {
		l.fresh(ctx)
	}
	page, err := l.index.Copies(ctx, asking(caller), q)
	return page, lineageError(err)
}

func (l *eventLineage) Affected(ctx context.Context, caller api.Caller, q lineage.AffectedQuery) (*lineage.Affected, error) {
	l.fresh(ctx)
	a, err := l.index.Affected(ctx, asking(caller), q)
	return a, lineageError(err)
}
