//go:build interop

package interop

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// TestSpikeRights opens a lane over SASL_SSL as a principal with no rights and
// gives it one right after the other, until a transaction of data and hops goes
// through: what a preflight must ask for.
func TestSpikeRights(t *testing.T) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) {
			b := apachekafka.Start(t, apachekafka.Config{Version: v, Secure: true})
			rights(t, b)
		})
	}
}

func rights(t *testing.T, b *apachekafka.Broker) {
	ctx := t.Context()
	admin := b.Cluster(apachekafka.Admin)
	createTopic(t, admin, "data", 1, nil)
	createTopic(t, admin, ledger.Topic, 1, nil)
	adm := kadm.NewClient(newClient(t, admin))
	p, book := tp("data", 0), tp(ledger.Topic, 0)

	conn := dial(t, b.Cluster(apachekafka.User))
	l := &lane{conn: conn, id: "waybill.rights", pid: -1, epoch: -1, seq: map[flow.TopicPartition]int32{}, produceVersion: maxProduce, timeout: time.Minute}
	expect(t, "without rights: FindCoordinator", l.awaitCoordinator(ctx), "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
	allow(t, adm, kadm.NewACLs().TransactionalIDs("waybill.").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpDescribe), l.awaitCoordinator)
	expect(t, "Describe on the transactional id: InitProducerId", l.init(ctx, -1, -1), "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
	allow(t, adm, kadm.NewACLs().TransactionalIDs("waybill.").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite), func(ctx context.Context) error {
		_, err := l.open(ctx)
		return err
	})
	expect(t, "Write on the transactional id: AddPartitionsToTxn", l.add(ctx, p, book), "TOPIC_AUTHORIZATION_FAILED")
	allow(t, adm, kadm.NewACLs().Topics("data", ledger.Topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite), func(ctx context.Context) error {
		return l.add(ctx, p, book)
	})
	expect(t, "AddPartitionsToTxn v4, which is for brokers", addAsBroker(ctx, l, p), "CLUSTER_AUTHORIZATION_FAILED")
	for _, q := range []flow.TopicPartition{p, book} {
		_, err := l.produce(ctx, q, l.stamped(q, three(t, "a")))
		expect(t, "Write on the topic: produce to "+q.Topic, err, "NONE")
	}
	expect(t, "EndTxn", l.end(ctx, true), "NONE")
	_, err := fetch(ctx, conn, book, 0, true, 1<<20)
	expect(t, "Write on the topic: fetch the ledger", err, "TOPIC_AUTHORIZATION_FAILED")
	allow(t, adm, kadm.NewACLs().Topics(ledger.Topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead), func(ctx context.Context) error {
		_, err := fetch(ctx, conn, book, 0, true, 1<<20)
		return err
	})
}

// allow gives the user rights and waits until what they allow works: the broker
// learns of them a moment later than its controller.
func allow(t *testing.T, adm *kadm.Client, b *kadm.ACLBuilder, works func(context.Context) error) {
	t.Helper()
	results, err := adm.CreateACLs(t.Context(), b.Allow("User:"+apachekafka.User).AllowHosts())
	must(t, "create ACLs", err)
	for _, r := range results {
		must(t, "create ACL", r.Err)
	}
	must(t, "use the right", poll(t.Context(), func() (bool, error) { return works(t.Context()) == nil, nil }))
}

func addAsBroker(ctx context.Context, l *lane, q flow.TopicPartition) error {
	req := kmsg.NewPtrAddPartitionsToTxnRequest()
	txn := kmsg.NewAddPartitionsToTxnRequestTransaction()
	txn.TransactionalID, txn.ProducerID, txn.ProducerEpoch = l.id, l.pid, l.epoch
	topic := kmsg.NewAddPartitionsToTxnRequestTransactionTopic()
	topic.Topic, topic.Partitions = q.Topic, []int32{q.Partition}
	txn.Topics = append(txn.Topics, topic)
	req.Transactions = append(req.Transactions, txn)
	resp, err := l.conn.Request(ctx, req, 4)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.AddPartitionsToTxnResponse).ErrorCode)
}
