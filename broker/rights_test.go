package broker

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// rights are what every API asks the ACLs for when everything that it can name is
// named, as Kafka's KafkaApis does: "Operation Type", or "Operation any Type". An
// API that takes none says so with an empty list, and why.
var rights = map[kmsg.Key][]string{
	kmsg.ApiVersions:      {}, // before authentication, and tells nothing of the cluster
	kmsg.SASLHandshake:    {}, // it is how one gets rights
	kmsg.SASLAuthenticate: {},
	kmsg.DescribeCluster:  {}, // what Metadata tells everybody

	kmsg.Produce:              {"Write Topic", "Write TransactionalId"},
	kmsg.Fetch:                {"Read Topic", "ClusterAction Cluster"}, // the latter with a replica id (CVE-2018-1288)
	kmsg.ListOffsets:          {"Describe Topic"},
	kmsg.OffsetForLeaderEpoch: {"Describe Topic"},
	kmsg.Metadata:             {"Describe Topic"},

	kmsg.CreateTopics:            {"Create Cluster", "DescribeConfigs Topic"}, // or Create Topic
	kmsg.DeleteTopics:            {"Delete Topic", "Describe Topic"},
	kmsg.CreatePartitions:        {"Alter Topic"},
	kmsg.DeleteRecords:           {"Delete Topic"},
	kmsg.DescribeConfigs:         {"DescribeConfigs Topic", "DescribeConfigs Cluster"},
	kmsg.AlterConfigs:            {"AlterConfigs Topic", "AlterConfigs Cluster"},
	kmsg.IncrementalAlterConfigs: {"AlterConfigs Topic", "AlterConfigs Cluster"},
	kmsg.DescribeLogDirs:         {"Describe Cluster"},
	kmsg.UpdateFeatures:          {"Alter Cluster"},
	kmsg.DescribeQuorum:          {"Describe Cluster"},
	kmsg.ElectLeaders:            {"Alter Cluster"},
	kmsg.AlterReplicaLogDirs:     {"Alter Cluster"},

	kmsg.AlterPartitionAssignments:  {"Alter Cluster"},
	kmsg.ListPartitionReassignments: {"Describe Cluster"},
	// Describe Topic decides; the others are told as what the caller may do.
	kmsg.DescribeTopicPartitions: {
		"Alter Topic", "AlterConfigs Topic", "Create Topic", "Delete Topic", "Describe Topic", "DescribeConfigs Topic", "Read Topic", "Write Topic",
	},
	kmsg.ListConfigResources:  {"DescribeConfigs Cluster"},
	kmsg.DescribeClientQuotas: {"DescribeConfigs Cluster"},
	kmsg.AlterClientQuotas:    {"AlterConfigs Cluster"},

	kmsg.DescribeACLs:                 {"Describe Cluster"},
	kmsg.CreateACLs:                   {"Alter Cluster"},
	kmsg.DeleteACLs:                   {"Alter Cluster"},
	kmsg.DescribeUserSCRAMCredentials: {"Describe Cluster"},
	kmsg.AlterUserSCRAMCredentials:    {"Alter Cluster"},

	kmsg.FindCoordinator:        {"Describe Group", "Describe TransactionalId"},
	kmsg.JoinGroup:              {"Read Group"},
	kmsg.SyncGroup:              {"Read Group"},
	kmsg.Heartbeat:              {"Read Group"},
	kmsg.LeaveGroup:             {"Read Group"},
	kmsg.DescribeGroups:         {"Describe Group"},
	kmsg.ListGroups:             {"Describe Cluster"}, // or Describe Group of each
	kmsg.DeleteGroups:           {"Delete Group"},
	kmsg.OffsetCommit:           {"Read Group", "Read Topic"},
	kmsg.OffsetFetch:            {"Describe Group", "Describe Topic"},
	kmsg.OffsetDelete:           {"Delete Group", "Read Topic"},
	kmsg.ConsumerGroupHeartbeat: {"Read Group", "Describe Topic"},
	kmsg.ConsumerGroupDescribe:  {"Describe Group"}, // and Describe Topic of what is assigned

	kmsg.InitProducerID:       {"Write TransactionalId", "IdempotentWrite Cluster"}, // or Write any Topic (KIP-679)
	kmsg.AddPartitionsToTxn:   {"Write TransactionalId", "Write Topic"},
	kmsg.AddOffsetsToTxn:      {"Write TransactionalId", "Read Group"},
	kmsg.TxnOffsetCommit:      {"Write TransactionalId", "Read Group", "Read Topic"},
	kmsg.EndTxn:               {"Write TransactionalId"},
	kmsg.WriteTxnMarkers:      {"ClusterAction Cluster"},
	kmsg.DescribeProducers:    {"Read Topic"},
	kmsg.DescribeTransactions: {"Describe TransactionalId"}, // and Describe Topic of what is in it
	kmsg.ListTransactions:     {},                           // shows those that the caller may Describe

	kmsg.Key(mirrorwire.AppendKey):   {"ClusterAction Cluster"},
	kmsg.Key(mirrorwire.DescribeKey): {"Describe Topic"},
	kmsg.Key(mirrorwire.AlterKey):    {"Alter Topic", "ClusterAction Cluster"},
}

// narrow are the APIs that show less to who has no rights, rather than an error.
var narrow = []kmsg.Key{kmsg.ListGroups, kmsg.ListTransactions}

// variants are requests in which a filled one is not all there is to ask.
var variants = map[kmsg.Key][]func(q kmsg.Request){
	kmsg.Produce: {func(q kmsg.Request) { q.(*kmsg.ProduceRequest).Acks = 1 }},
	kmsg.Fetch: {func(q kmsg.Request) { f := q.(*kmsg.FetchRequest); f.ReplicaID, f.ReplicaState.ID = -1, -1 }, func(q kmsg.Request) {
		f := q.(*kmsg.FetchRequest)
		f.ReplicaID, f.ReplicaState.ID = 2, 2
	}},
	kmsg.CreateTopics: {func(q kmsg.Request) {
		topic := &q.(*kmsg.CreateTopicsRequest).Topics[0]
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor, topic.ReplicaAssignment, topic.Configs = "new", 1, 1, nil, nil
	}},
	kmsg.DeleteTopics: {
		func(q kmsg.Request) { q.(*kmsg.DeleteTopicsRequest).Topics[0].Topic = nil },
	},
	kmsg.AddPartitionsToTxn: {func(q kmsg.Request) { q.SetVersion(3) }},
	kmsg.InitProducerID:     {func(kmsg.Request) {}, func(q kmsg.Request) { q.(*kmsg.InitProducerIDRequest).TransactionalID = nil }},
	kmsg.FindCoordinator:    {func(kmsg.Request) {}, func(q kmsg.Request) { q.(*kmsg.FindCoordinatorRequest).CoordinatorType = 1 }},
	kmsg.DescribeConfigs: {
		func(q kmsg.Request) {
			q.(*kmsg.DescribeConfigsRequest).Resources[0].ResourceType = kmsg.ConfigResourceTypeTopic
		},
		func(q kmsg.Request) {
			r := &q.(*kmsg.DescribeConfigsRequest).Resources[0]
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
		},
	},
	kmsg.AlterConfigs: {
		func(q kmsg.Request) {
			q.(*kmsg.AlterConfigsRequest).Resources[0].ResourceType = kmsg.ConfigResourceTypeTopic
		},
		func(q kmsg.Request) {
			r := &q.(*kmsg.AlterConfigsRequest).Resources[0]
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
		},
	},
	kmsg.IncrementalAlterConfigs: {
		func(q kmsg.Request) {
			q.(*kmsg.IncrementalAlterConfigsRequest).Resources[0].ResourceType = kmsg.ConfigResourceTypeTopic
		},
		func(q kmsg.Request) {
			r := &q.(*kmsg.IncrementalAlterConfigsRequest).Resources[0]
			r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeBroker, "1"
		},
	},
	// By id a topic is unknown to who may not describe it, as in Kafka.
	kmsg.Metadata:                    {func(q kmsg.Request) { q.(*kmsg.MetadataRequest).Topics[0].TopicID = [16]byte{} }},
	kmsg.Key(mirrorwire.DescribeKey): {func(q kmsg.Request) { q.(*mirrorwire.DescribeRequest).Topics[0].TopicID = [16]byte{} }},
	kmsg.Key(mirrorwire.AlterKey):    {func(q kmsg.Request) { q.(*mirrorwire.AlterRequest).Topics[0].TopicID = [16]byte{} }},
}

// nameAll names one of everything: topic "t", which is there, and others that are not.
func nameAll(v reflect.Value, field string, topic [16]byte) {
	switch v.Kind() {
	case reflect.Struct:
		if d, ok := v.Addr().Interface().(interface{ Default() }); ok {
			d.Default()
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Name != "Version" && f.Name != "UnknownTags" && f.IsExported() {
				nameAll(v.Field(i), f.Name, topic)
			}
		}
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.String && !strings.Contains(field, "Regex") && field != "InstanceID" {
			v.Set(reflect.New(v.Type().Elem()))
			nameAll(v.Elem(), field, topic)
		}
	case reflect.String:
		v.SetString("t")
	case reflect.Array:
		if v.Type() == reflect.TypeFor[[16]byte]() {
			v.Set(reflect.ValueOf(topic))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		nameAll(v.Index(0), field, topic)
	}
}

// asking runs every variant of a request of a row over b and returns what was
// asked, and the error codes of the answers.
func asking(t *testing.T, b *testBroker, asked *recorder, row *api) (questions []string, codes []int16) {
	t.Helper()
	topic := [16]byte(b.ctl.Image().Topic("t").ID)
	changes := variants[row.key]
	if changes == nil {
		changes = []func(kmsg.Request){func(kmsg.Request) {}}
	}
	asked.taken()
	for _, change := range changes {
		q := newRequest(row.key)
		nameAll(reflect.ValueOf(q).Elem(), "", topic)
		q.SetVersion(row.max)
		change(q)
		raw := frameOf(q, q.GetVersion())[frameLengthSize:]
		c := &conn{b: b.Broker, ln: b.listeners["plain"], log: slog.New(slog.DiscardHandler)}
		c.client = Client{Principal: "User:alice", Host: "10.0.0.1", Listener: "plain"}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		_, p, err := c.handle(ctx, frameHeader(raw), row, raw)
		if err != nil {
			t.Fatalf("%s: the filled request is no request: %v", apiName(row.key), err)
		}
		resp, err := p(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", apiName(row.key), err)
		}
		eachError(resp, func(code int16) { codes = append(codes, code) })
		if f, ok := resp.(*fetchAnswer); ok {
			f.release()
		}
	}
	for _, a := range asked.taken() {
		right := a.op.String() + " " + a.rt.String()
		if a.name == "" {
			right = a.op.String() + " any " + a.rt.String()
		}
		if !slices.Contains(questions, right) {
			questions = append(questions, right)
		}
	}
	return questions, codes
}

func rightsBroker(t *testing.T, asked *recorder) *testBroker {
	t.Helper()
	b := startPrepared(t, func(c *Config) { c.Authorizer, c.Provenance = true, false }, asked.install)
	produceN(t, b.client(t, kgo.AllowAutoTopicCreation()), "t", 0, 1)
	return b
}

// TestEveryAPITakesItsRights: whoever adds an API says here what it takes.
func TestEveryAPITakesItsRights(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	asked := &recorder{allow: true}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		row := table[key]
		b := rightsBroker(t, asked) // of its own: some delete what others need
		questions, _ := asking(t, b, asked, row)
		b.stop()
		want, known := rights[row.key]
		slices.Sort(questions)
		if sorted := slices.Sorted(slices.Values(want)); !known || !slices.Equal(questions, sorted) {
			t.Errorf("%s asks for %q; rights in rights_test.go has %q (there: %v). See what Kafka's KafkaApis asks for, "+
				"mend the handler or the line, and give it variants if a filled request does not show all.", apiName(row.key), questions, sorted, known)
		}
	}
	for key := range rights {
		if table[int16(key)] == nil {
			t.Errorf("rights in rights_test.go has %s, which is not in the dispatch table", key.Name())
		}
	}
}

var authorizationErrors = []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed}

// TestNothingIsDoneWithoutRights: who has none is told so, and nothing else.
func TestNothingIsDoneWithoutRights(t *testing.T) {
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	asked := &recorder{allow: true}
	b := rightsBroker(t, asked)
	asked.setAllow(false)
	before := b.ctl.Image()
	for _, key := range slices.Sorted(maps.Keys(table)) {
		row := table[key]
		if len(rights[row.key]) == 0 || slices.Contains(narrow, row.key) {
			continue
		}
		_, codes := asking(t, b, asked, row)
		if len(codes) == 0 {
			t.Errorf("%s is answered without an error", apiName(row.key))
		}
		for _, code := range codes {
			if !slices.ContainsFunc(authorizationErrors, func(e *kerr.Error) bool { return e.Code == code }) {
				t.Errorf("%s is answered with %v", apiName(row.key), kerr.ErrorForCode(code))
			}
		}
	}
	if b.ctl.Image() != before {
		t.Error("the metadata has changed")
	}
}

// TestAuthorizerIsAnACLSet: what the tests put in its place is what it is.
func TestAuthorizerIsAnACLSet(t *testing.T) {
	for _, c := range []struct {
		on, permissive, want bool
	}{{false, false, true}, {true, false, false}, {true, true, true}} {
		b := startBroker(t, func(cfg *Config) { cfg.Authorizer, cfg.AllowEveryoneIfNoACL = c.on, c.permissive })
		if got := b.authorizer().Allowed("User:alice", "10.0.0.1", acl.Read, acl.Topic, "t"); got != c.want {
			t.Errorf("authorizer %v, permissive %v: got %v", c.on, c.permissive, got)
		}
	}
}
