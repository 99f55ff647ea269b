package broker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
)

// initIdempotentProducer answers InitProducerId without a transactional id: a new
// producer id at epoch 0, whatever the producer had before. It needs
// IdempotentWrite on the cluster or Write on any topic (KIP-679).
func (b *Broker) initIdempotentProducer(r *request, q *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	resp := q.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if !r.allowed(acl.IdempotentWrite, acl.Cluster, acl.ClusterName) && !r.allowedOnAny(acl.Write, acl.Topic) {
		resp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
		return resp
	}
	id, err := b.ctl.NextProducerID()
	if errors.Is(err, controller.ErrFull) {
		err = fmt.Errorf("%w: %w", kerr.CoordinatorLoadInProgress, err) // which every client repeats it after
	}
	if err != nil {
		resp.ErrorCode = b.code(err, "allocate producer id")
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}
