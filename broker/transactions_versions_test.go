package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/txn"
	"github.com/waybillhq/waybill/internal/record"
)

// firstProtocol is what clients from before KIP-890's second part speak.
func firstProtocol() *kversion.Versions {
	return versionsWith(map[int16]int16{
		kmsg.Produce.Int16(): produceJoins - 1, kmsg.TxnOffsetCommit.Int16(): txnOffsetCommitJoins - 1, kmsg.EndTxn.Int16(): 4,
	})
}

// epochs runs transactions and returns the producer's epoch after each.
func epochs(t *testing.T, cl *kgo.Client, prefix string, n int) []int16 {
	t.Helper()
	var out []int16
	for i := range n {
		if err := transact(t, cl, kgo.TryCommit, values(fmt.Sprintf("%s%d-", prefix, i), 1)...); err != nil {
			t.Fatal(err)
		}
		_, epoch, err := cl.ProducerID(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, epoch)
	}
	return out
}

// TestBothProtocolsSideBySide: the feature decides what clients do, and those that
// do not know it go on as ever.
func TestBothProtocolsSideBySide(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	if got, want := epochs(t, b.producer(t, "tx"), "new", 3), []int16{1, 2, 3}; !slices.Equal(got, want) {
		t.Errorf("second protocol: epochs %v, want %v", got, want)
	}
	if got, want := epochs(t, b.producer(t, "tx", kgo.MaxVersions(firstProtocol())), "old", 3), []int16{4, 4, 4}; !slices.Equal(got, want) {
		t.Errorf("first protocol: epochs %v, want %v", got, want)
	}
	if got, want := epochs(t, b.producer(t, "tx"), "again", 2), []int16{6, 7}; !slices.Equal(got, want) {
		t.Errorf("second protocol again: epochs %v, want %v", got, want)
	}
	want := []string{"new0-0", "new1-0", "new2-0", "old0-0", "old1-0", "old2-0", "again0-0", "again1-0"}
	if got := b.committedValues(t, "orders"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// call sends a request to the broker and returns its answer.
func call[S kmsg.Response](t *testing.T, cl *kgo.Client, q kmsg.Request) S {
	t.Helper()
	resp, err := cl.SeedBrokers()[0].Request(within(t, 30*time.Second), q)
	if err != nil {
		t.Fatal(err)
	}
	return resp.(S)
}

func (b *testBroker) setFeature(t *testing.T, version int16, name string, level int16, kind int8, validateOnly bool) *kmsg.UpdateFeaturesResponse {
	t.Helper()
	q := kmsg.NewPtrUpdateFeaturesRequest()
	q.ValidateOnly = validateOnly
	u := kmsg.NewUpdateFeaturesRequestFeatureUpdate()
	u.Feature, u.MaxVersionLevel, u.UpgradeType, u.AllowDowngrade = name, level, kind, kind > upgrade
	q.FeatureUpdates = append(q.FeatureUpdates, u)
	cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.UpdateFeatures.Int16(): version})))
	return call[*kmsg.UpdateFeaturesResponse](t, cl, q)
}

func TestFeatureLevels(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	const downgrade = 2
	for name, c := range map[string]struct {
		got  *kmsg.UpdateFeaturesResponse
		want *kerr.Error
	}{
		"unknown":                  {b.setFeature(t, 2, "nothing.version", 1, upgrade, false), kerr.InvalidUpdateVersion},
		"too new":                  {b.setFeature(t, 2, "transaction.version", 3, upgrade, false), kerr.InvalidUpdateVersion},
		"what is always there":     {b.setFeature(t, 2, "group.version", 0, downgrade, false), kerr.InvalidUpdateVersion},
		"down without saying so":   {b.setFeature(t, 2, "transaction.version", 1, upgrade, false), kerr.InvalidUpdateVersion},
		"same":                     {b.setFeature(t, 2, "transaction.version", 2, upgrade, false), nil},
		"only validated":           {b.setFeature(t, 2, "transaction.version", 1, downgrade, true), nil},
		"kind that nobody defined": {b.setFeature(t, 2, "transaction.version", 1, 9, false), kerr.InvalidUpdateVersion},
	} {
		if got := kerr.ErrorForCode(c.got.ErrorCode); !errors.Is(got, errorOrNil(c.want)) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
	if r := b.setFeature(t, 1, "transaction.version", 9, upgrade, false); r.ErrorCode != 0 || len(r.Results) != 1 || r.Results[0].ErrorCode != kerr.InvalidUpdateVersion.Code {
		t.Errorf("version 1 tells by feature: got %+v", r)
	}
	if r := b.setFeature(t, 2, "transaction.version", 1, downgrade, false); r.ErrorCode != 0 {
		t.Fatalf("downgrade: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	b = b.restart(t)
	cl := b.producer(t, "tx")
	if got, want := epochs(t, cl, "a", 2), []int16{0, 0}; !slices.Equal(got, want) {
		t.Errorf("at level 1: epochs %v, want %v", got, want)
	}
	if r := b.setFeature(t, 0, "transaction.version", 2, upgrade, false); r.ErrorCode != 0 {
		t.Fatalf("upgrade: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	if got, want := epochs(t, b.producer(t, "tx"), "b", 2), []int16{2, 3}; !slices.Equal(got, want) {
		t.Errorf("at level 2: epochs %v, want %v", got, want)
	}
}

func errorOrNil(e *kerr.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// TestFeaturesInApiVersions: clients before version 4 cannot read a supported
// range that begins at 0 (KAFKA-17011), and before 3 there are no features.
func TestFeaturesInApiVersions(t *testing.T) {
	b := startBroker(t, nil)
	for version, want := range map[int16]string{
		2: "[] [] -1",
		3: "[group.version:1-1] [group.version:1 transaction.version:2] 0",
		4: "[group.version:1-1 transaction.version:0-2] [group.version:1 transaction.version:2] 0",
		5: "[group.version:1-1 transaction.version:0-2] [group.version:1 transaction.version:2] 0",
	} {
		q := kmsg.NewPtrApiVersionsRequest()
		q.Version, q.ClientSoftwareName, q.ClientSoftwareVersion = version, "test", "1"
		whole := b.apiVersions(t.Context(), nil, q)
		resp := q.ResponseKind().(*kmsg.ApiVersionsResponse)
		if err := resp.ReadFrom(whole.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
		supported, finalized := []string{}, []string{}
		for _, f := range resp.SupportedFeatures {
			supported = append(supported, fmt.Sprintf("%s:%d-%d", f.Name, f.MinVersion, f.MaxVersion))
		}
		for _, f := range resp.FinalizedFeatures {
			finalized = append(finalized, fmt.Sprintf("%s:%d", f.Name, f.MaxVersionLevel))
		}
		if got := fmt.Sprint(supported, finalized, resp.FinalizedFeaturesEpoch); got != want {
			t.Errorf("version %d: got %s, want %s", version, got, want)
		}
	}
}

// TestApiVersionsOfAnotherBroker: a client that reached another broker than it
// means begins anew (KIP-1242).
func TestApiVersionsOfAnotherBroker(t *testing.T) {
	b := startBroker(t, nil)
	id := b.ClusterID()
	for _, c := range []struct {
		cluster *string
		node    int32
		want    error
	}{
		{nil, -1, nil},
		{&id, 1, nil},
		{&id, 2, kerr.RebootstrapRequired},
		{kmsg.StringPtr("another"), 1, kerr.RebootstrapRequired},
		{&id, -1, kerr.InvalidRequest},
		{nil, 1, kerr.InvalidRequest},
	} {
		if err := b.checkIdentity(c.cluster, c.node); !errors.Is(err, c.want) {
			t.Errorf("%v: got %v", c, err)
		}
	}
}

// transactionalBatch is one record as part of a transaction.
func transactionalBatch(t *testing.T, id int64, epoch int16, sequence int32) record.Batch {
	t.Helper()
	stamp := record.NoProducer(record.None)
	stamp.ProducerID, stamp.ProducerEpoch, stamp.BaseSequence = id, epoch, sequence
	stamp.Attributes = stamp.Attributes.WithTransactional(true)
	batch, err := record.Encode([]record.Record{{Timestamp: time.Now().UnixMilli(), Value: []byte("v")}}, stamp)
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// TestBrokersAddAndVerifyPartitions sends what only brokers send: AddPartitionsToTxn
// of many transactions, and WriteTxnMarkers.
func TestBrokersAddAndVerifyPartitions(t *testing.T) {
	b := startBroker(t, func(c *Config) {
		c.Authorizer = true
		c.BootstrapACLs = []acl.Rule{allowRule("User:bob", acl.TransactionalID, "tx", acl.Write)}
	})
	ctx := within(t, 30*time.Second)
	root := b.secureClient(t, scram256("admin", "root"))
	if _, err := kadm.NewClient(root).CreateTopics(ctx, 2, 1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	producer := b.secureClient(t, scram256("admin", "root"), kgo.TransactionalID("tx"))
	id, epoch, err := producer.ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	add := func(verify bool, partitions ...int32) *kmsg.AddPartitionsToTxnRequest {
		q := kmsg.NewPtrAddPartitionsToTxnRequest()
		x := kmsg.NewAddPartitionsToTxnRequestTransaction()
		x.TransactionalID, x.ProducerID, x.ProducerEpoch, x.VerifyOnly = "tx", id, epoch, verify
		topic := kmsg.NewAddPartitionsToTxnRequestTransactionTopic()
		topic.Topic, topic.Partitions = "orders", partitions
		x.Topics = append(x.Topics, topic)
		q.Transactions = append(q.Transactions, x)
		return q
	}
	bob := b.secureClient(t, scram256("bob", "secret"))
	if r := call[*kmsg.AddPartitionsToTxnResponse](t, bob, add(false, 0)); r.ErrorCode != kerr.ClusterAuthorizationFailed.Code {
		t.Errorf("bob is no broker: got %v", kerr.ErrorForCode(r.ErrorCode))
	}
	codes := func(r *kmsg.AddPartitionsToTxnResponse) (out []error) {
		for _, p := range r.Transactions[0].Topics[0].Partitions {
			out = append(out, kerr.ErrorForCode(p.ErrorCode))
		}
		return out
	}
	for _, c := range []struct {
		verify     bool
		partitions []int32
		want       []error
	}{
		{false, []int32{0, 9}, []error{kerr.OperationNotAttempted, kerr.UnknownTopicOrPartition}},
		{true, []int32{0}, []error{kerr.TransactionAbortable}},
		{false, []int32{0}, []error{nil}},
		{true, []int32{0, 1, 9}, []error{nil, kerr.TransactionAbortable, kerr.UnknownTopicOrPartition}},
	} {
		if got := codes(call[*kmsg.AddPartitionsToTxnResponse](t, root, add(c.verify, c.partitions...))); !slices.Equal(got, c.want) {
			t.Errorf("verify %t of %v: got %v, want %v", c.verify, c.partitions, got, c.want)
		}
	}

	// A transaction that hangs: open in a log, unknown to the coordinator.
	p, err := b.partition("orders", 1)
	if err != nil {
		t.Fatal(err)
	}
	guard, _ := p.BeginVerification(77, 3)
	if _, err := p.AppendVerified(transactionalBatch(t, 77, 3, 0), guard); err != nil {
		t.Fatal(err)
	}
	mark := func(cl *kgo.Client, epoch int16, version int8) error {
		q := kmsg.NewPtrWriteTxnMarkersRequest()
		m := kmsg.NewWriteTxnMarkersRequestMarker()
		m.ProducerID, m.ProducerEpoch, m.TransactionVersion = 77, epoch, version
		topic := kmsg.NewWriteTxnMarkersRequestMarkerTopic()
		topic.Topic, topic.Partitions = "orders", []int32{1}
		m.Topics = append(m.Topics, topic)
		q.Markers = append(q.Markers, m)
		r := call[*kmsg.WriteTxnMarkersResponse](t, cl, q)
		return kerr.ErrorForCode(r.Markers[0].Topics[0].Partitions[0].ErrorCode)
	}
	if err := mark(bob, 4, 2); !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		t.Errorf("bob ends a transaction: got %v", err)
	}
	if err := mark(root, 3, 2); !errors.Is(err, kerr.InvalidProducerEpoch) {
		t.Errorf("marker of the transaction's own epoch: got %v", err)
	}
	if err := mark(root, 3, 0); err != nil {
		t.Errorf("abort: %v", err)
	}
	for _, s := range p.Producers() {
		if s.TxnStart != -1 {
			t.Errorf("still open: %+v", s)
		}
	}
}

// TestProduceAddsItsPartitions sends one Produce of several partitions, of which
// some are not there, by both protocols.
func TestProduceAddsItsPartitions(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 3, 0)
	ctx := within(t, 30*time.Second)
	id, epoch, err := b.producer(t, "tx").ProducerID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	produce := func(version int16, partitions ...int32) (out []error) {
		q := kmsg.NewPtrProduceRequest()
		q.TransactionID, q.Acks, q.TimeoutMillis = kmsg.StringPtr("tx"), -1, 5000
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic = "orders"
		for _, n := range partitions {
			part := kmsg.NewProduceRequestTopicPartition()
			part.Partition, part.Records = n, transactionalBatch(t, id, epoch, 0)
			topic.Partitions = append(topic.Partitions, part)
		}
		q.Topics = append(q.Topics, topic)
		cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.Produce.Int16(): version})))
		r := call[*kmsg.ProduceResponse](t, cl, q)
		for _, p := range r.Topics[0].Partitions {
			out = append(out, kerr.ErrorForCode(p.ErrorCode))
		}
		return out
	}
	for _, c := range []struct {
		version    int16
		partitions []int32
		want       []error
	}{
		{produceAbortable - 1, []int32{0, 1}, []error{kerr.InvalidTxnState, kerr.InvalidTxnState}},
		{produceAbortable, []int32{0}, []error{kerr.TransactionAbortable}},
		{produceJoins, []int32{0, 9, 1}, []error{nil, kerr.UnknownTopicOrPartition, nil}},
		{produceAbortable, []int32{2}, []error{kerr.TransactionAbortable}},
	} {
		if got := produce(c.version, c.partitions...); !slices.Equal(got, c.want) {
			t.Errorf("version %d of %v: got %v, want %v", c.version, c.partitions, got, c.want)
		}
	}
	x, err := b.coordinators.txns.Get(context.Background(), "tx")
	if got := fmt.Sprint(x.Sorted()); err != nil || got != "[{orders 0} {orders 1}]" {
		t.Errorf("transaction is on %s, %v", got, err)
	}
	// A zombie, and a producer that nobody knows.
	epoch--
	if got := produce(produceJoins, 2); !slices.Equal(got, []error{kerr.InvalidProducerEpoch}) {
		t.Errorf("older epoch: got %v", got)
	}
	id, epoch = 5, 0
	if got := produce(produceJoins, 2); !slices.Equal(got, []error{kerr.InvalidProducerIDMapping}) {
		t.Errorf("another producer: got %v", got)
	}
}

// TestATransactionBeginsOnAPartitionWithItsFirstBatch: where a partition knows
// nothing of a producer, no batch may overtake the one that it sends again.
func TestATransactionBeginsOnAPartitionWithItsFirstBatch(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 2, 0)
	cl := b.producer(t, "tx")
	id, epoch, err := cl.ProducerID(within(t, 30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	question := func(version int16, partition, sequence int32) *kmsg.ProduceRequest {
		q := kmsg.NewPtrProduceRequest()
		q.Version, q.TransactionID, q.Acks, q.TimeoutMillis = version, kmsg.StringPtr("tx"), -1, 5000
		part := kmsg.NewProduceRequestTopicPartition()
		part.Partition, part.Records = partition, transactionalBatch(t, id, epoch, sequence)
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic, topic.Partitions = "orders", []kmsg.ProduceRequestTopicPartition{part}
		q.Topics = []kmsg.ProduceRequestTopic{topic}
		return q
	}
	produce := func(version int16, partition, sequence int32) error {
		cl := b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.Produce.Int16(): version})))
		r := call[*kmsg.ProduceResponse](t, cl, question(version, partition, sequence))
		return kerr.ErrorForCode(r.Topics[0].Partitions[0].ErrorCode)
	}
	add := kmsg.NewPtrAddPartitionsToTxnRequest()
	add.Version, add.TransactionalID, add.ProducerID, add.ProducerEpoch = 3, "tx", id, epoch
	topic := kmsg.NewAddPartitionsToTxnRequestTopic()
	topic.Topic, topic.Partitions = "orders", []int32{1}
	add.Topics = append(add.Topics, topic)
	if r := call[*kmsg.AddPartitionsToTxnResponse](t, b.client(t, kgo.MaxVersions(versionsWith(map[int16]int16{kmsg.AddPartitionsToTxn.Int16(): 3}))), add); r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(r.Topics[0].Partitions[0].ErrorCode))
	}
	first := question(produceAbortable, 1, 7)
	// The first protocol's first batch arrives while the coordinator is away.
	there := b.coordinators.txns
	b.coordinators.txns = txn.NewCoordinator(txn.DefaultConfig(), b.coordinators, b.ctl)
	for _, e := range b.enlist(t.Context(), &request{api: &api{}, broker: b.Broker, client: &Client{}}, first) {
		if !errors.Is(e.err, kerr.NotEnoughReplicas) {
			t.Errorf("without a coordinator: got %v", e.err)
		}
	}
	b.coordinators.txns = there
	for _, c := range []struct {
		version             int16
		partition, sequence int32
		want                error
	}{
		{produceJoins, 0, 7, kerr.OutOfOrderSequenceNumber},
		{produceJoins, 0, 0, nil},
		{produceJoins, 0, 1, nil},
		{produceAbortable, 1, 8, kerr.OutOfOrderSequenceNumber},
		{produceAbortable, 1, 7, nil},
		{produceAbortable, 1, 8, nil},
	} {
		if err := produce(c.version, c.partition, c.sequence); !errors.Is(err, c.want) {
			t.Errorf("version %d, partition %d, sequence %d: got %v, want %v", c.version, c.partition, c.sequence, err, c.want)
		}
	}
}
