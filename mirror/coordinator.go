package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// Versions are pinned. From version 4 on AddPartitionsToTxn is for brokers; from
// version 5 on EndTxn bumps the epoch and Produce needs no AddPartitions (KIP-890).
const (
	initVersion = 4
	addVersion  = 3
	endVersion  = 4
)

// coordinator speaks for one transactional id with the broker that coordinates
// it. It is not safe for concurrent use.
type coordinator struct {
	peer     *peer
	clientID string
	id       string        // transactional id
	timeout  time.Duration // after which the broker aborts a transaction by itself
	conn     *kafka.Conn
	wait     backoff // between attempts

	// waiting is told why a request has been asked again for a while, and nil when
	// it is answered after all.
	waiting func(err error)
}

// coordinatorWait is how long a coordinator is given between two attempts: the markers
// of a transaction are written within some milliseconds.
var coordinatorWait = backoff{min: 5 * time.Millisecond, max: 500 * time.Millisecond}

func (k *coordinator) close() {
	if k.conn != nil {
		_ = k.conn.Close()
		k.conn = nil
	}
}

func (k *coordinator) connect(ctx context.Context) (*kafka.Conn, error) {
	if k.conn != nil && k.conn.Usable() {
		return k.conn, nil
	}
	k.close()
	found, ok := kadm.NewClient(k.peer.client).FindTxnCoordinators(ctx, k.id)[k.id]
	if !ok {
		return nil, fmt.Errorf("find coordinator of %s: %w", k.id, kerr.CoordinatorNotAvailable)
	}
	if found.Err != nil {
		return nil, fmt.Errorf("find coordinator of %s: %w", k.id, found.Err)
	}
	var err error
	k.conn, err = kafka.Dial(ctx, k.peer.cluster, net.JoinHostPort(found.Host, strconv.Itoa(int(found.Port))), k.clientID)
	return k.conn, err
}

// again repeats ask while it answers a code that only asks for patience, or the
// connection is lost: ask must be idempotent.
func (k *coordinator) again(ctx context.Context, what string, ask func(*kafka.Conn) error) error {
	wait := k.wait
	for {
		conn, err := k.connect(ctx)
		if err == nil {
			err = ask(conn)
		}
		if err == nil {
			if wait.grown() {
				k.waiting(nil)
			}
			return nil
		}
		err = fmt.Errorf("%s: %w", what, err)
		switch {
		case errors.Is(err, kerr.ConcurrentTransactions):
			// The markers of the transaction before are on their way.
		case errors.Is(err, kerr.CoordinatorLoadInProgress):
		case errors.Is(err, kerr.NotCoordinator), errors.Is(err, kerr.CoordinatorNotAvailable), !isKafkaError(err) && !isPermanent(err):
			k.close() // it moved, or the connection is gone
		default:
			return err
		}
		if wait.grown() {
			k.waiting(err)
		}
		if waitErr := wait.sleep(ctx); waitErr != nil {
			return err
		}
	}
}

// init fences every earlier user of the transactional id, has what it left open
// aborted, waits until that is settled, and returns the producer id and epoch to
// use from now on. It names no epoch of its own: an abort by the coordinator
// then comes with a higher epoch, which keeps requests that are still under way
// on dead connections out of every partition.
func (k *coordinator) init(ctx context.Context) (pid int64, epoch int16, err error) {
	err = k.again(ctx, "InitProducerId", func(conn *kafka.Conn) error {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = &k.id
		req.TransactionTimeoutMillis = int32(k.timeout.Milliseconds())
		req.ProducerID, req.ProducerEpoch = -1, -1
		answer, err := conn.Request(ctx, req, initVersion)
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.InitProducerIDResponse)
		pid, epoch = resp.ProducerID, resp.ProducerEpoch
		return kerr.ErrorForCode(resp.ErrorCode)
	})
	return pid, epoch, err
}

// partitionErrors are the faults of single partitions in one answer.
type partitionErrors map[flow.TopicPartition]error

func (e partitionErrors) Error() string {
	first := ""
	for tp, err := range e {
		if s := fmt.Sprintf("%v: %v", tp, err); first == "" || s < first {
			first = s
		}
	}
	if len(e) > 1 {
		first += fmt.Sprintf(" (one of %d partitions)", len(e))
	}
	return first
}

func (e partitionErrors) Unwrap() []error { return slices.Collect(maps.Values(e)) }

// add makes partitions part of the transaction. Adding one twice is harmless.
func (k *coordinator) add(ctx context.Context, pid int64, epoch int16, tps []flow.TopicPartition) error {
	return k.again(ctx, "AddPartitionsToTxn", func(conn *kafka.Conn) error {
		req := kmsg.NewPtrAddPartitionsToTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch = k.id, pid, epoch
		index := map[string]int{}
		for _, tp := range tps {
			i, ok := index[tp.Topic]
			if !ok {
				i = len(req.Topics)
				index[tp.Topic] = i
				t := kmsg.NewAddPartitionsToTxnRequestTopic()
				t.Topic = tp.Topic
				req.Topics = append(req.Topics, t)
			}
			req.Topics[i].Partitions = append(req.Topics[i].Partitions, tp.Partition)
		}
		answer, err := conn.Request(ctx, req, addVersion)
		if err != nil {
			return err
		}
		return addFaults(answer.(*kmsg.AddPartitionsToTxnResponse))
	})
}

// addFaults is the error of an answer: one that concerns the lane, if there is
// one, else those of partitions.
func addFaults(resp *kmsg.AddPartitionsToTxnResponse) error {
	faults := partitionErrors{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			switch err := kerr.ErrorForCode(p.ErrorCode); {
			case err == nil, errors.Is(err, kerr.OperationNotAttempted): // another partition's fault
			case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.TopicAuthorizationFailed):
				faults[flow.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = err
			default:
				return err
			}
		}
	}
	if len(faults) > 0 {
		return faults
	}
	return nil
}

// commit asks once for the commit of the transaction. Any error leaves it unclear
// whether it is committed.
func (k *coordinator) commit(ctx context.Context, pid int64, epoch int16) error {
	conn, err := k.connect(ctx)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrEndTxnRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = k.id, pid, epoch, true
	answer, err := conn.Request(ctx, req, endVersion)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := kerr.ErrorForCode(answer.(*kmsg.EndTxnResponse).ErrorCode); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func isKafkaError(err error) bool {
	var ke *kerr.Error
	var faults partitionErrors
	return errors.As(err, &ke) || errors.As(err, &faults)
}

// isPermanent says that a new connection will meet the same fault.
func isPermanent(err error) bool {
	var version *kafka.VersionError
	return errors.As(err, &version)
}
