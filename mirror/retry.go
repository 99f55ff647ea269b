package mirror

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

// ErrFenced says that this node's incarnation is over: another node has taken
// over its copies, or is about to. All copies of the Manager have stopped, and
// only a Manager of a new incarnation may start them again.
var ErrFenced = errors.New("fenced: the incarnation of this node has ended")

// ErrEnded is what [Lanes] answers for an incarnation that has ended.
var ErrEnded = errors.New("incarnation has ended")

// Faults of a copy that no Kafka error code names.
var (
	errRecreated     = errors.New("topic was deleted and created again")
	errTruncated     = errors.New("source log was cut back below what has been copied")
	errLost          = errors.New("destination log ends below what has been copied")
	errRefilled      = errors.New("destination log was cut back and written to by others")
	errSuspect       = errors.New("what was copied may be lost, it is being looked into")
	errGap           = errors.New("the source deleted records before they were copied")
	errUnmatched     = errors.New("what was written and not acknowledged is matched with the source")
	errIntruder      = errors.New("destination log is shorter than what was written to it")
	errSuperseded    = errors.New("the ledger has a newer epoch of this copy")
	errClaimed       = errors.New("the ledger says that the copy belongs to another fleet")
	errNoDestination = errors.New("destination topic does not exist")
	errFewPartitions = errors.New("destination topic has fewer partitions than the source")
	errUnresolved    = errors.New("position is not known")
	errOrigin        = errors.New("where records are from is not known")
	errLedger        = errors.New("write to the ledger")
	errOtherLedger   = errors.New("the ledger was deleted and created again")
	errRules         = errors.New("what the flow declares of records cannot be done")

	errPromoted     = errors.New("promoted: it takes ordinary writes now, and no copies")
	errMirrorPaused = errors.New("the mirror topic is paused")
	errMirrorFailed = errors.New("the mirror topic has failed")
	errMirrorMoved  = errors.New("the mirror ends elsewhere than expected")
	errNoMirror     = errors.New("it is no mirror topic, and the copy preserves offsets")
	errNoMirrors    = errors.New("the destination has no mirror topics, and the copy preserves offsets")
	errLateWriter   = errors.New("a writer of a newer epoch was here")
	errForgotten    = errors.New("the source's history is not that of its mirror")
	// errNotAside is about bytes at the source of which nobody can say which records
	// they were: damaged messages of formats v0 and v1, damaged batches that have not as many
	// records as offsets, and what is no batch.
	errNotAside  = errors.New("quarantine does not take it")
	errRefused   = errors.New("the destination has refused what is copied")
	errOldFormat = errors.New("messages of a format before v2, whose bytes a mirror topic cannot hold")
)

// action is what an error makes of a copy.
type action int

const (
	rewind action = iota // abort, wait a little, go on from the last hop
	hold                 // as rewind, but somebody has to do something: wait long, show it
	rest                 // as hold, but nothing is wrong: somebody wants it so
	stop                 // never by itself: going on would splice or skip
)

// verdict is an error as a copy sees it: what to do now, and what a person is
// told to do.
type verdict struct {
	action action
	fix    string
}

// classify decides about an error of one copy. Everything inside a transaction
// that goes wrong ends that transaction, so "retry the request" is no choice.
func classify(err error) verdict {
	if errors.Is(err, errLedger) {
		switch {
		case errors.Is(err, kerr.TopicAuthorizationFailed):
			return verdict{hold, "allow READ, WRITE and DESCRIBE on the topic " + ledger.Topic + " of the destination"}
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
			return verdict{hold, "see what the status says of the destination's ledger"}
		case errors.Is(err, kerr.MessageTooLarge):
			return verdict{hold, "raise max.message.bytes of the topic " + ledger.Topic + " of the destination"}
		}
	}
	if errors.Is(err, errOrigin) && errors.Is(err, kerr.TopicAuthorizationFailed) {
		return verdict{hold, "allow READ and DESCRIBE on the topic " + ledger.Topic + " of the source, also if there is none"}
	}
	for _, c := range verdicts {
		if errors.Is(err, c.err) {
			return c.verdict
		}
	}
	var be *BatchError
	if errors.As(err, &be) {
		return verdict{hold, "inspect it at the source; to go on without it, let the flow put such records aside (spec.records.poison: quarantine), or delete the source's records up to it (DeleteRecords)"}
	}
	// Connections break, brokers elect and throttle: the next try meets another
	// state. That includes codes this table does not know.
	return verdict{rewind, ""}
}

var verdicts = []struct {
	err error
	verdict
}{
	{errRecreated, verdict{stop, "the topic's old life and new life are different topics: remove the destination topic or rename it in the flow, then apply the flow again"}},
	{errTruncated, verdict{stop, "the source lost records that the destination has (unclean election): compare both, then set policies.onTruncate of the flow to retract, which leaves them on the destination and goes on, or recreate the destination topic"}},
	{errRefilled, verdict{stop, "the destination lost records, and others have written there since: compare both with verify, then recreate the destination topic, which is copied anew"}},
	{errGap, verdict{hold, "set policies.onGap of the flow to continue: the gap is declared then, and the copy goes on behind it"}},
	{errIntruder, verdict{stop, "the destination lost records or somebody else writes with this copy's producer id: compare with verify, then recreate the destination topic"}},
	{errSuperseded, verdict{stop, "another node or fleet owns this copy; see who in the ledger's latest begin entry"}},
	{errLost, verdict{stop, "the destination lost records (unclean election): set policies.onLoss of the flow to recopy if it is stop; otherwise compare both with verify, then recreate the destination topic"}},
	{errClaimed, verdict{stop, "two fleets are given the same copy: take it out of one of them"}},
	{errNoCommits, verdict{hold, "correct start.committed of the flow, or let the group commit once"}},
	{errNoDestination, verdict{hold, "create the topic, or let the flow create it: the principal needs CREATE on it"}},
	{errFewPartitions, verdict{hold, "add partitions to the destination topic, or allow ALTER on it"}},
	{errRecordTooLarge, verdict{hold, "raise max.message.bytes of the destination topic, or let the flow put such records aside (spec.records.poison: quarantine)"}},
	{errNoQuarantine, verdict{hold, "create the topic, or let the flow create it: the principal needs CREATE on it"}},
	{errRules, verdict{hold, "make the secrets that spec.records refers to readable for this node"}},
	{errNullKey, verdict{hold, "make cleanup.policy of the destination topic that of the source, or let the flow put such records aside (spec.records.poison: quarantine)"}},
	{errTooOld, verdict{hold, "set message.timestamp.before.max.ms of the destination topic to the largest value, or let the flow put such records aside (spec.records.poison: quarantine)"}},
	{errTooNew, verdict{hold, "set message.timestamp.after.max.ms of the destination topic to the largest value, or let the flow put such records aside (spec.records.poison: quarantine)"}},
	{errOtherLedger, verdict{stop, "see what the status says of the destination's ledger"}},
	{errOrigin, verdict{rewind, "see what the status says of the source's ledger, and whether the flow that writes the topic there still runs"}},
	{errPromoted, verdict{hold, "nothing, after a failover; to copy on, delete the destination topic, or let its changes flow back first"}},
	{errMirrorPaused, verdict{rest, "replicator topic resume"}},
	{errMirrorFailed, verdict{hold, "compare both topics, then replicator topic resume, or delete the destination topic to copy all again"}},
	{errNoMirror, verdict{hold, "delete the destination topic, or set offsets: translate"}},
	{errNoMirrors, verdict{hold, "set offsets: translate, or use a bundled broker as destination"}},
	{errLateWriter, verdict{stop, "another node owns this copy; see who in the ledger's latest begin entry"}},
	{errNotAside, verdict{hold, "inspect it at the source, where another replica may have it whole; to go on without it, delete the source's records (DeleteRecords) up to the offset behind the last one that the reason names, with policies.onGap of the flow at continue: the gap is declared then"}},
	{errOldFormat, verdict{hold, "delete the destination topic and set offsets: translate"}},
	{errForgotten, verdict{hold, "compare both topics; delete the destination topic to copy all again"}},
	{errUnresolved, verdict{rewind, "see what the status says of the destination's ledger"}},
	{errRefused, verdict{stop, "the flow's policies.onRefusal is stop: when the destination takes records again, pause the flow and resume it"}},

	{kerr.TopicAuthorizationFailed, verdict{hold, "allow READ and DESCRIBE on the source topic, WRITE and DESCRIBE on the destination topic"}},
	{kerr.ClusterAuthorizationFailed, verdict{hold, "allow IDEMPOTENT_WRITE on the destination cluster"}},
	{kerr.TransactionalIDAuthorizationFailed, verdict{hold, "allow WRITE and DESCRIBE on transactional ids with the prefix waybill., or, if that cannot be had, set spec.delivery of the flow to at-least-once"}},
	{kerr.SaslAuthenticationFailed, verdict{hold, "check the user and the secret that the Cluster object refers to"}},
	{kerr.MessageTooLarge, verdict{hold, "raise max.message.bytes of the destination topic"}},
	{kerr.RecordListTooLarge, verdict{hold, "raise segment.bytes of the destination topic"}},
	// The time bounds of a destination topic must not decide what is copied.
	{kerr.InvalidTimestamp, verdict{hold, "set message.timestamp.before.max.ms and message.timestamp.after.max.ms of the destination topic to the largest value"}},
	{kerr.InvalidRecord, verdict{hold, "a compacted destination takes no record without a key: make cleanup.policy that of the source"}},
	{kerr.KafkaStorageError, verdict{rewind, "a disk of that cluster is full or fails: see its broker's log, make room; nothing else is to be done"}},
	{kerr.NotEnoughReplicas, verdict{rewind, notInSync}},
	{kerr.NotEnoughReplicasAfterAppend, verdict{rewind, notInSync}},
	{kerr.ThrottlingQuotaExceeded, verdict{rewind, "raise the quota of the flow's user or client id at the destination; nothing else is to be done"}},
	{kerr.PolicyViolation, verdict{hold, "a policy of the destination cluster refuses the records"}},
	{kerr.UnsupportedCompressionType, verdict{hold, "the destination does not know the codec of these batches"}},
	// The source's checksum travels with a raw batch: staged again with a check,
	// the copy either finds the batch corrupt at the source or goes on.
	{kerr.CorruptMessage, verdict{rewind, ""}},
}

const notInSync = "bring back the brokers that hold replicas of the destination topic, so that as many are in sync as its min.insync.replicas asks for; nothing else is to be done"

// trouble is what keeps a part of the data plane from its work, as the copies
// show it that depend on that part.
type trouble struct {
	state       State
	reason, fix string
}

// troubleOf is an error as trouble; none is the zero trouble.
func troubleOf(err error) trouble {
	if err == nil {
		return trouble{}
	}
	v := classify(err)
	t := trouble{Waiting, err.Error(), cmp.Or(v.fix, kafka.Advice(err))}
	switch v.action {
	case hold, stop:
		t.state = Failed
	case rest:
		t.state = Paused
	}
	return t
}

// isFencing says that an answer means a newer epoch of our transactional id.
// That may be another node, or the coordinator that aborted a transaction which
// took too long: only raft can tell, when the lane is registered again.
func isFencing(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.InvalidProducerIDMapping)
}

// backoff grows from min to max, doubled each time and spread by a quarter.
type backoff struct {
	min, max time.Duration
	n        int
}

func (b *backoff) next() time.Duration {
	d := min(b.min<<min(b.n, 30), b.max)
	b.n++
	return d - d/8 + rand.N(d/4+1)
}

// grown says that waiting has become long enough to be worth a reason.
func (b *backoff) grown() bool { return b.n >= 5 }

func (b *backoff) sleep(ctx context.Context) error {
	t := time.NewTimer(b.next())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
