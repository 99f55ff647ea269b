package broker

import (
	"context"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
)

// transactionAPIs are the rows of producers and transactions.
func transactionAPIs() []api {
	return []api{
		{key: kmsg.InitProducerID, min: 0, max: 5, resource: acl.TransactionalID, op: acl.Write, handle: answers((*Broker).initProducerID)},
	}
}

func (b *Broker) initProducerID(_ context.Context, r *request, q *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	if q.TransactionalID == nil {
		return b.initIdempotentProducer(r, q)
	}
	resp := q.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	resp.ErrorCode = kerr.CoordinatorNotAvailable.Code
	return resp
}
