package broker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/txn"
)

// producerIDs gives out the ids of producers, with and without a transactional id.
type producerIDs struct{ b *Broker }

var _ txn.ProducerIDs = producerIDs{}

// NextProducerID implements [txn.ProducerIDs]. Metadata that are older than the logs may
// not know of ids that only the transaction coordinators do: until all of these have
// loaded the answer is COORDINATOR_LOAD_IN_PROGRESS.
func (p producerIDs) NextProducerID() (int64, error) {
	if p.b.outdated && !p.b.coordinators.txns.IDsPassed() {
		return -1, fmt.Errorf("%w: the metadata are older than the logs, and %s is not read yet", kerr.CoordinatorLoadInProgress, transactionsTopic)
	}
	return p.b.ctl.NextProducerID()
}

// PassProducerID implements [txn.ProducerIDs].
func (p producerIDs) PassProducerID(id int64) error { return p.b.ctl.PassProducerID(id) }

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
	id, err := producerIDs{b}.NextProducerID()
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
