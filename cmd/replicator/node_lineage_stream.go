package main

import (
	"context"
	"errors"
	"net/http"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/lineage"
)

// Stream answers api.Lineage.
func (l *eventLineage) Stream(ctx context.Context, caller api.Caller, q lineage.StreamQuery) (api.LineageStream, error) {
	s, err := l.index.Stream(ctx, asking(caller), q)
	if errors.Is(err, lineage.ErrBusy) {
		return nil, api.Errorf(http.StatusConflict, "%v", err).WithHint("close one, or ask another node")
	}
	if err != nil {
		return nil, lineageError(err, nil)
	}
	return s, nil
}
