package mirror

import (
	"context"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
)

// session is what makes the producer of a lane, and what a transaction of it is at
// the destination: a [coordinator]'s, or none (a [plainSession]).
type session interface {
	// init returns the producer id and epoch to write with from now on. What was
	// written with earlier ones, and was in a transaction, is decided then.
	init(ctx context.Context) (pid int64, epoch int16, err error)
	add(ctx context.Context, pid int64, epoch int16, tps []flow.TopicPartition) error
	commit(ctx context.Context, pid int64, epoch int16) error
	close()
}

var (
	_ session = (*coordinator)(nil)
	_ session = (*plainSession)(nil)
)

// plainSession is an idempotent producer without transactions (KIP-98): what is
// acknowledged is there, for every reader at once, and nothing can be taken back.
// After a fault it goes on with the next epoch of its producer id, as KIP-360 has
// it: a partition that has taken a batch of that epoch takes none of an earlier one,
// so what was still on its way on a dead connection comes to nothing there.
type plainSession struct {
	peer  *peer
	pid   int64 // -1: none yet
	epoch int16
}

func (s *plainSession) init(ctx context.Context) (pid int64, epoch int16, err error) {
	if s.pid >= 0 && s.epoch < math.MaxInt16 {
		s.epoch++
		return s.pid, s.epoch, nil
	}
	req := kmsg.NewPtrInitProducerIDRequest()
	req.ProducerID, req.ProducerEpoch = -1, -1
	resp, err := req.RequestWith(ctx, s.peer.client)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return -1, -1, fmt.Errorf("InitProducerId without a transactional id: %w", err)
	}
	s.pid, s.epoch = resp.ProducerID, resp.ProducerEpoch
	return s.pid, s.epoch, nil
}

func (*plainSession) add(context.Context, int64, int16, []flow.TopicPartition) error { return nil }
func (*plainSession) commit(context.Context, int64, int16) error                     { return nil }
func (*plainSession) close()                                                         {}
