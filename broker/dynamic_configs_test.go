package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/record"
)

// alterConfig changes one config of a resource and returns what was answered.
func alterConfig(t *testing.T, cl *kgo.Client, kind kmsg.ConfigResourceType, resource string, op kmsg.IncrementalAlterConfigOp, name, value string, validateOnly bool) error {
	t.Helper()
	q := kmsg.NewPtrIncrementalAlterConfigsRequest()
	q.ValidateOnly = validateOnly
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Op = name, op
	if op != kmsg.IncrementalAlterConfigOpDelete {
		c.Value = &value
	}
	q.Resources = append(q.Resources, kmsg.IncrementalAlterConfigsRequestResource{
		ResourceType: kind, ResourceName: resource, Configs: []kmsg.IncrementalAlterConfigsRequestResourceConfig{c},
	})
	r := call[*kmsg.IncrementalAlterConfigsResponse](t, cl, q)
	return kerr.ErrorForCode(r.Resources[0].ErrorCode)
}

// described returns a config of a resource as "value source", and its synonyms.
func described(t *testing.T, cl *kgo.Client, kind kmsg.ConfigResourceType, resource, name string) (value string, synonyms []string) {
	t.Helper()
	q := kmsg.NewPtrDescribeConfigsRequest()
	q.IncludeSynonyms = true
	q.Resources = append(q.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kind, ResourceName: resource, ConfigNames: []string{name}})
	r := call[*kmsg.DescribeConfigsResponse](t, cl, q)
	if err := kerr.ErrorForCode(r.Resources[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Resources[0].Configs {
		value = *c.Value + " " + c.Source.String()
		for _, s := range c.ConfigSynonyms {
			synonyms = append(synonyms, s.Name+"="+*s.Value+" "+s.Source.String())
		}
	}
	return value, synonyms
}

const (
	setConfig    = kmsg.IncrementalAlterConfigOpSet
	deleteConfig = kmsg.IncrementalAlterConfigOpDelete
	ofTopic      = kmsg.ConfigResourceTypeTopic
	ofBroker     = kmsg.ConfigResourceTypeBroker
	ofLogger     = kmsg.ConfigResourceTypeBrokerLogger
)

// TestBrokerDefaultsReachTopics changes a default of the broker: topics without a
// value of their own go by it at once, after a restart too.
func TestBrokerDefaultsReachTopics(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	alter := func(resource string, op kmsg.IncrementalAlterConfigOp, value string) {
		t.Helper()
		if err := alterConfig(t, cl, ofBroker, resource, op, "message.max.bytes", value, false); err != nil {
			t.Fatal(err)
		}
	}
	limits := func(limit int, want string, synonyms ...string) {
		t.Helper()
		value, all := described(t, cl, ofTopic, "orders", "max.message.bytes")
		if value != want || !slices.Equal(all, synonyms) {
			t.Errorf("got %s, %q; want %s, %q", value, all, want, synonyms)
		}
		if got := b.topic("orders").config.maxBatchBytes; got != limit {
			t.Errorf("the topic goes by %d, want %d", got, limit)
		}
	}
	const program = "message.max.bytes=1048588 DEFAULT_CONFIG"
	limits(1048588, "1048588 DEFAULT_CONFIG", program)
	alter("", setConfig, "2000")
	limits(2000, "2000 DYNAMIC_DEFAULT_BROKER_CONFIG", "message.max.bytes=2000 DYNAMIC_DEFAULT_BROKER_CONFIG", program)
	big := &kgo.Record{Topic: "orders", Value: bytes.Repeat([]byte("x"), 2100)}
	if err := b.client(t, kgo.ProducerBatchCompression(kgo.NoCompression())).ProduceSync(within(t, 30*time.Second), big).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("a record above the limit: got %v", err)
	}
	alter("1", setConfig, "3000")
	limits(3000, "3000 DYNAMIC_BROKER_CONFIG", "message.max.bytes=3000 DYNAMIC_BROKER_CONFIG", "message.max.bytes=2000 DYNAMIC_DEFAULT_BROKER_CONFIG", program)
	b = b.restart(t)
	cl = b.client(t)
	limits(3000, "3000 DYNAMIC_BROKER_CONFIG", "message.max.bytes=3000 DYNAMIC_BROKER_CONFIG", "message.max.bytes=2000 DYNAMIC_DEFAULT_BROKER_CONFIG", program)
	if err := alterConfig(t, cl, ofTopic, "orders", setConfig, "max.message.bytes", "4000", false); err != nil {
		t.Fatal(err)
	}
	limits(4000, "4000 DYNAMIC_TOPIC_CONFIG", "max.message.bytes=4000 DYNAMIC_TOPIC_CONFIG",
		"message.max.bytes=3000 DYNAMIC_BROKER_CONFIG", "message.max.bytes=2000 DYNAMIC_DEFAULT_BROKER_CONFIG", program)
	if err := alterConfig(t, cl, ofTopic, "orders", deleteConfig, "max.message.bytes", "", false); err != nil {
		t.Fatal(err)
	}
	alter("1", deleteConfig, "")
	alter("", deleteConfig, "")
	limits(1048588, "1048588 DEFAULT_CONFIG", program)
}

// TestCompactionLagsThatCrossAreRefused wherever one of them is set.
func TestCompactionLagsThatCrossAreRefused(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	for _, c := range []struct {
		kind        kmsg.ConfigResourceType
		name        string
		key, value  string
		wantRefused bool
	}{
		{ofBroker, "", "log.cleaner.max.compaction.lag.ms", "5000", false},
		{ofBroker, "", "log.cleaner.min.compaction.lag.ms", "6000", true},
		{ofTopic, "orders", "min.compaction.lag.ms", "6000", true},
		{ofTopic, "orders", "max.compaction.lag.ms", "7000", false},
		{ofTopic, "orders", "min.compaction.lag.ms", "6000", false},
		{ofTopic, "orders", "max.compaction.lag.ms", "5999", true},
	} {
		err := alterConfig(t, cl, c.kind, c.name, setConfig, c.key, c.value, false)
		if errors.Is(err, kerr.InvalidConfig) != c.wantRefused || err != nil && !c.wantRefused {
			t.Errorf("%s=%s of %q: got %v", c.key, c.value, c.name, err)
		}
	}
	lag := "6000"
	r, err := kadm.NewClient(cl).CreateTopics(within(t, 30*time.Second), 1, 1, map[string]*string{"min.compaction.lag.ms": &lag}, "late")
	if err != nil || !errors.Is(r["late"].Err, kerr.InvalidConfig) {
		t.Errorf("a new topic: got %v, %v", r["late"].Err, err)
	}
}

// TestATopicsCompressionIsAppliedOnTheWay through the broker: a client reads what
// another has sent, by a setting of the topic that changes while it is used.
func TestATopicsCompressionIsAppliedOnTheWay(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t, kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	value := strings.Repeat("x", 500)
	want := []record.Codec{record.Snappy, record.Gzip, record.None, record.Zstd}
	for i, kind := range []string{"producer", "gzip", "uncompressed", "zstd"} {
		if err := alterConfig(t, cl, ofTopic, "orders", setConfig, "compression.type", kind, false); err != nil {
			t.Fatal(err)
		}
		rec := &kgo.Record{Topic: "orders", Value: []byte(value)}
		if err := cl.ProduceSync(within(t, 30*time.Second), rec).FirstErr(); err != nil || rec.Offset != int64(i) {
			t.Fatalf("%s: at offset %d, %v", kind, rec.Offset, err)
		}
	}
	p, err := b.partition("orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := p.Read(0, 1<<20, p.EndOffset())
	if err != nil {
		t.Fatal(err)
	}
	var got []record.Codec
	for len(stored) > 0 {
		var batch record.Batch
		if batch, stored, err = record.Next(stored); err != nil {
			t.Fatal(err)
		}
		got = append(got, batch.Attributes().Codec())
	}
	if !slices.Equal(got, want) {
		t.Errorf("stored with %v, want %v", got, want)
	}
	if read := b.committedValues(t, "orders"); !slices.Equal(read, []string{value, value, value, value}) {
		t.Errorf("read %q", read)
	}
}

func TestTopicCreationGoesByTheLiveSettings(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t)
	ctx := within(t, 30*time.Second)
	for name, value := range map[string]string{"num.partitions": "5", "auto.create.topics.enable": "false"} {
		if err := alterConfig(t, cl, ofBroker, "", setConfig, name, value, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kadm.NewClient(cl).CreateTopics(ctx, -1, -1, nil, "orders"); err != nil {
		t.Fatal(err)
	}
	if n := len(b.topic("orders").partitions); n != 5 {
		t.Errorf("%d partitions, want 5", n)
	}
	q := kmsg.NewPtrMetadataRequest()
	q.AllowAutoTopicCreation = true
	q.Topics = append(q.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr("made-by-asking")})
	if r := call[*kmsg.MetadataResponse](t, cl, q); r.Topics[0].ErrorCode != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("auto creation is off: got %v", kerr.ErrorForCode(r.Topics[0].ErrorCode))
	}
}

// TestReassignmentsAreThrottled does what kafka-reassign-partitions does with
// --throttle, and when it is done.
func TestReassignmentsAreThrottled(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	for _, c := range []struct {
		kind                             kmsg.ConfigResourceType
		resource, name, value, unset, as string
	}{
		{ofTopic, "orders", "leader.replication.throttled.replicas", "0:1,1:1", " DEFAULT_CONFIG", "DYNAMIC_TOPIC_CONFIG"},
		{ofTopic, "orders", "follower.replication.throttled.replicas", "*", " DEFAULT_CONFIG", "DYNAMIC_TOPIC_CONFIG"},
		{ofBroker, "1", "leader.replication.throttled.rate", "1000", maxInt64 + " DEFAULT_CONFIG", "DYNAMIC_BROKER_CONFIG"},
		{ofBroker, "1", "follower.replication.throttled.rate", "0", maxInt64 + " DEFAULT_CONFIG", "DYNAMIC_BROKER_CONFIG"},
		{ofBroker, "", "replica.alter.log.dirs.io.max.bytes.per.second", "1000", "", "DYNAMIC_DEFAULT_BROKER_CONFIG"},
	} {
		for _, step := range []struct {
			op   kmsg.IncrementalAlterConfigOp
			want string
		}{{setConfig, c.value + " " + c.as}, {deleteConfig, c.unset}} {
			if err := alterConfig(t, cl, c.kind, c.resource, step.op, c.name, c.value, false); err != nil {
				t.Errorf("%v %s: %v", step.op, c.name, err)
			}
			if got, _ := described(t, cl, c.kind, c.resource, c.name); got != step.want {
				t.Errorf("%v %s: described as %q, want %q", step.op, c.name, got, step.want)
			}
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	cl := b.client(t)
	for _, c := range []struct {
		kind            kmsg.ConfigResourceType
		resource        string
		op              kmsg.IncrementalAlterConfigOp
		name, value     string
		validateOnly    bool
		want            error
		what, unchanged string
	}{
		{ofBroker, "1", setConfig, "log.retention.ms", "-2", false, kerr.InvalidConfig, "out of range", "604800000 DEFAULT_CONFIG"},
		{ofBroker, "", setConfig, "log.retention.ms", "soon", false, kerr.InvalidConfig, "no number", ""},
		{ofBroker, "1", setConfig, "log.retention.ms", "5", true, nil, "only validated", "604800000 DEFAULT_CONFIG"},
		{ofBroker, "1", setConfig, "node.id", "5", false, kerr.InvalidRequest, "read-only", "1 STATIC_BROKER_CONFIG"},
		{ofBroker, "1", setConfig, "no.such", "5", false, kerr.InvalidConfig, "unknown", ""},
		{ofBroker, "1", deleteConfig, "no.such", "", false, nil, "take away what is not there", ""},
		{ofTopic, "orders", deleteConfig, "no.such", "", false, nil, "the same of a topic", ""},
		{ofBroker, "2", setConfig, "log.retention.ms", "5", false, kerr.InvalidRequest, "another broker", "-"},
		{ofTopic, "orders", setConfig, "retention.ms", "5", true, nil, "topic, only validated", "604800000 DEFAULT_CONFIG"},
		{ofTopic, "orders", setConfig, "leader.replication.throttled.replicas", "0:1,all", false, kerr.InvalidConfig, "no list of replicas", " DEFAULT_CONFIG"},
		{ofBroker, "1", setConfig, "leader.replication.throttled.rate", "-1", false, kerr.InvalidConfig, "no rate", maxInt64 + " DEFAULT_CONFIG"},
		{ofTopic, "none", setConfig, "retention.ms", "5", false, kerr.UnknownTopicOrPartition, "no topic", "-"},
		{ofLogger, "1", setConfig, "no.such", "DEBUG", false, kerr.InvalidConfig, "unknown logger", ""},
		{ofLogger, "1", setConfig, "broker", "LOUD", false, kerr.InvalidConfig, "unknown level", "INFO DYNAMIC_BROKER_LOGGER_CONFIG"},
		{ofLogger, "1", deleteConfig, "root", "", false, kerr.InvalidRequest, "root must have a level", "INFO DYNAMIC_BROKER_LOGGER_CONFIG"},
		{ofLogger, "2", setConfig, "root", "DEBUG", false, kerr.InvalidRequest, "another broker's logger", "-"},
		{kmsg.ConfigResourceTypeGroupConfig, "g", setConfig, "no.such", "1", false, kerr.InvalidConfig, "unknown group config", ""},
		{kmsg.ConfigResourceTypeClientMetrics, "m", setConfig, "interval.ms", "1", false, kerr.InvalidRequest, "client metrics", "-"},
	} {
		if c.kind == ofLogger {
			b.loggers.handler = slog.NewTextHandler(&bytes.Buffer{}, nil)
		}
		if err := alterConfig(t, cl, c.kind, c.resource, c.op, c.name, c.value, c.validateOnly); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, err, c.want)
		}
		if c.unchanged != "-" {
			if got, _ := described(t, cl, c.kind, c.resource, c.name); got != c.unchanged {
				t.Errorf("%s: now %s, want %s", c.what, got, c.unchanged)
			}
		}
	}
}

// TestLogLevelsChangeLive: a logger follows root until it has a level of its own.
func TestLogLevelsChangeLive(t *testing.T) {
	var out bytes.Buffer
	l := newLoggers(slog.New(slog.NewTextHandler(&out, nil)))
	said := func(logger string) bool {
		out.Reset()
		l.logger(logger).With("a", 1).WithGroup("g").Debug("detail")
		return strings.Contains(out.String(), "detail")
	}
	b := &Broker{loggers: l}
	b.cfg.NodeID = 1
	set := func(name, level string) {
		t.Helper()
		op := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: name, Op: setConfig, Value: &level}
		if level == "" {
			op.Op, op.Value = deleteConfig, nil
		}
		if err := b.alterLoggers("1", false, []kmsg.IncrementalAlterConfigsRequestResourceConfig{op}); err != nil {
			t.Fatal(err)
		}
	}
	if said("broker.txn") {
		t.Error("said at level INFO")
	}
	set("broker.txn", "DEBUG")
	if !said("broker.txn") || said("broker") {
		t.Error("one logger at DEBUG: either it is silent or another one speaks")
	}
	set(rootLogger, "TRACE")
	set("broker.txn", "OFF")
	if said("broker.txn") || !said("broker") {
		t.Error("root at TRACE, one logger OFF: either it speaks or another one is silent")
	}
	set("broker.txn", "")
	if !said("broker.txn") {
		t.Error("without a level of its own a logger follows root")
	}
}

func TestConfigResourcesAreListed(t *testing.T) {
	b := startBroker(t, nil)
	b.makeTopic(t, "orders", 1, 0)
	list := func(kinds ...int8) (out []string) {
		q := kmsg.NewPtrListConfigResourcesRequest()
		q.ResourceTypes = kinds
		r := call[*kmsg.ListConfigResourcesResponse](t, b.client(t), q)
		if r.ErrorCode != 0 {
			return []string{kerr.ErrorForCode(r.ErrorCode).Error()}
		}
		for _, c := range r.ConfigResources {
			out = append(out, kmsg.ConfigResourceType(c.Type).String()+" "+c.Name)
		}
		return out
	}
	if got := list(int8(ofTopic)); !slices.Contains(got, "TOPIC orders") {
		t.Errorf("topics: got %v", got)
	}
	if got := list(); !slices.Contains(got, "TOPIC orders") || !slices.Contains(got, "BROKER 1") || !slices.Contains(got, "BROKER_LOGGER 1") {
		t.Errorf("all: got %v", got)
	}
	if got := list(99); !slices.Equal(got, []string{kerr.UnsupportedVersion.Error()}) {
		t.Errorf("unknown kind: got %v", got)
	}
}

// TestEveryTopicSettingHasABrokersDefault holds the catalogue and the map together.
func TestEveryTopicSettingHasABrokersDefault(t *testing.T) {
	for _, s := range topicSettings {
		own := s.name == "remote.storage.enable" || strings.HasSuffix(s.name, ".replication.throttled.replicas") // Kafka has none either
		if topicDefaults[s.name] == "" && !own {
			t.Errorf("%s has no broker setting", s.name)
		}
	}
}

func TestNamesThatCollide(t *testing.T) {
	b := startBroker(t, nil)
	ctx := within(t, 30*time.Second)
	adm := kadm.NewClient(b.client(t))
	r, err := adm.CreateTopics(ctx, 1, 1, nil, "a.b_c", "a_b.c", "a-b-c", "a.b_cd")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, t := range r {
		if errors.Is(t.Err, kerr.InvalidTopicException) {
			refused++
		}
	}
	if refused != 1 || r["a-b-c"].Err != nil || r["a.b_cd"].Err != nil {
		t.Errorf("got %+v", r)
	}
}
