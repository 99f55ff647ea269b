package main

import (
	"context"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/lineage"
)

func (l *eventLineage) Copies(ctx context.Context, caller api.Caller, q lineage.RangeQuery) (*lineage.RangePage, error) {
	var unread lineage.Unread
	if q.Cursor == "" {
		unread = l.fresh(ctx, caller)
	}
	page, err := l.index.Copies(ctx, asking(caller), q)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	page.Unknown = append(page.Unknown, unread.Says()...)
	return page, nil
}

func (l *eventLineage) Affected(ctx context.Context, caller api.Caller, q lineage.AffectedQuery) (*lineage.Affected, error) {
	unread := l.fresh(ctx, caller)
	a, err := l.index.Affected(ctx, asking(caller), q)
	if err != nil {
		return nil, lineageError(err, unread)
	}
	a.Unknown = append(a.Unknown, unread.Says()...)
	return a, nil
}
