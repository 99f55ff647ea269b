package broker

import (
	"context"
	"errors"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/group"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/record"
)

// kafkaError is the protocol's error for err, nil for nil. What it does not know
// is UNKNOWN_SERVER_ERROR: see [Broker.code], which logs those.
func kafkaError(err error) *kerr.Error {
	var (
		known     *kerr.Error
		batch     *record.CorruptError
		log       *commitlog.CorruptError
		isCorrupt = errors.As(err, &log)
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &batch), errors.Is(err, record.ErrPartial):
		return kerr.CorruptMessage
	case isCorrupt, errors.Is(err, commitlog.ErrOffline), errors.Is(err, commitlog.ErrFull), errors.Is(err, replica.ErrOffline), errors.Is(err, controller.ErrOffline), errors.Is(err, controller.ErrFull):
		return kerr.KafkaStorageError
	case errors.Is(err, commitlog.ErrClosed):
		// The topic was deleted or the broker stops: the client asks for
		// metadata again and sees which.
		return kerr.NotLeaderForPartition
	case errors.Is(err, commitlog.ErrReadOnly), errors.Is(err, commitlog.ErrNotMirror):
		return kerr.InvalidRequest
	case errors.Is(err, commitlog.ErrWriterFenced):
		return kerr.ProducerFenced
	case errors.Is(err, commitlog.ErrUnexpectedEnd):
		return kerr.InvalidUpdateVersion
	case errors.Is(err, replica.ErrMirrorClosed):
		return kerr.PolicyViolation
	case errors.Is(err, commitlog.ErrOffsetOutOfRange):
		return kerr.OffsetOutOfRange
	case errors.Is(err, commitlog.ErrTooLarge):
		return kerr.MessageTooLarge
	case errors.Is(err, commitlog.ErrInvalidBatch):
		return kerr.InvalidRecord
	case errors.Is(err, commitlog.ErrOutOfOrderSequence):
		return kerr.OutOfOrderSequenceNumber
	case errors.Is(err, commitlog.ErrInvalidProducerEpoch):
		return kerr.InvalidProducerEpoch
	case errors.Is(err, commitlog.ErrInvalidTxnState):
		return kerr.InvalidTxnState
	case errors.Is(err, commitlog.ErrCoordinatorFenced):
		return kerr.TransactionCoordinatorFenced
	case errors.Is(err, replica.ErrFencedEpoch), errors.Is(err, commitlog.ErrStaleLeaderEpoch):
		return kerr.FencedLeaderEpoch
	case errors.Is(err, replica.ErrUnknownEpoch):
		return kerr.UnknownLeaderEpoch
	case errors.Is(err, acl.ErrInvalid):
		return kerr.InvalidRequest
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return kerr.RequestTimedOut
	}
	return kerr.UnknownServerError
}

// code is the protocol's number for err. An error that no client can cause is
// logged, with what was being done.
func (b *Broker) code(err error, doing string, about ...any) int16 {
	e := kafkaError(err)
	if e == nil {
		return 0
	}
	// A log that takes no writes has told so itself, once.
	told := errors.Is(err, commitlog.ErrFull) || errors.Is(err, commitlog.ErrOffline) || errors.Is(err, controller.ErrFull)
	if (e == kerr.UnknownServerError || e == kerr.KafkaStorageError) && !told {
		b.log.Error("request not carried out", slices.Concat([]any{"doing", doing}, guard.About(err), about)...)
	}
	return e.Code
}

// refusal is a protocol error with words for the client.
type refusal struct {
	code    *kerr.Error
	message string
}

func (r *refusal) Error() string { return r.message }
func (r *refusal) Unwrap() error { return r.code }

// refuse returns an error that is told to the client as code and message.
func refuse(code *kerr.Error, message string) error { return &refusal{code, message} }

// message is what a client is told about err; nil if there is no error. Causes
// inside the broker are not told.
func message(err error) *string {
	if err == nil {
		return nil
	}
	var r *refusal
	if errors.As(err, &r) {
		return &r.message
	}
	var u *group.UpgradeError
	if errors.As(err, &u) {
		return kmsg.StringPtr(u.Error())
	}
	text := kafkaError(err).Description
	return &text
}
