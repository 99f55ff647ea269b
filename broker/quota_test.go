package broker

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/internal/record"
)

// entityOf reads "user/client"; "" is no part, "*" the default.
func entityOf(user, client string) (e controller.QuotaEntity) {
	part := func(s string) controller.QuotaName {
		switch s {
		case "":
			return controller.QuotaName{}
		case "*":
			return controller.QuotaDefault
		}
		return controller.QuotaFor(s)
	}
	return controller.QuotaEntity{User: part(user), ClientID: part(client)}
}

func TestTheMostParticularQuotaCounts(t *testing.T) {
	// Each is more particular than the one after it.
	order := []struct{ user, client string }{
		{"u", "c"}, {"u", "*"}, {"u", ""}, {"*", "c"}, {"*", "*"}, {"*", ""}, {"", "c"}, {"", "*"},
	}
	for from := range order {
		all := map[controller.QuotaEntity]map[string]float64{}
		for i, e := range order[from:] {
			all[entityOf(e.user, e.client)] = map[string]float64{"limit": float64(from + i + 1)}
		}
		rate, key, found := limitOf(all, "limit", "u", "c")
		if !found || rate != float64(from+1) {
			t.Errorf("from %v on: %v, %v", order[from], rate, found)
		}
		want := bucketKey{limit: "limit"}
		if order[from].user != "" {
			want.user = "u"
		}
		if order[from].client != "" {
			want.clientID = "c"
		}
		if key != want {
			t.Errorf("%v is shared as %+v, want %+v", order[from], key, want)
		}
	}
	if _, _, found := limitOf(map[controller.QuotaEntity]map[string]float64{entityOf("other", ""): {"limit": 1}, entityOf("u", ""): {"another": 1}}, "limit", "u", "c"); found {
		t.Error("a quota of somebody else counts")
	}
}

func TestABucketLetsThroughItsRate(t *testing.T) {
	now := time.Now()
	b := &bucket{}
	take := func(rate, n float64) time.Duration {
		b.refill(rate, now)
		b.tokens -= n
		return b.debt()
	}
	if wait := take(100, 1000); wait != 0 {
		t.Errorf("a window's worth at once: wait %v", wait)
	}
	if wait := take(100, 50); wait != 500*time.Millisecond {
		t.Errorf("50 more: wait %v, want 500 ms", wait)
	}
	now = now.Add(500 * time.Millisecond)
	if wait := take(100, 100); wait != time.Second {
		t.Errorf("after the wait, 100 more: wait %v, want 1 s", wait)
	}
	now = now.Add(time.Hour)
	if wait := take(100, 1001); wait != 10*time.Millisecond {
		t.Errorf("an hour of rest is worth a window: wait %v", wait)
	}
	if wait := take(10, 0); wait != 100*time.Millisecond {
		t.Errorf("a lower rate: wait %v", wait)
	}
}

func TestQuotasOfInventedClientsAreForgotten(t *testing.T) {
	q, now := newQuotas(nil), time.Now()
	for i := range 5 * sweepQuotas {
		q.take(bucketKey{limit: "l", clientID: fmt.Sprint(i)}, 10, 1, now)
		now = now.Add(20 * time.Millisecond)
	}
	if len(q.buckets) > 2*sweepQuotas {
		t.Errorf("%d clients are counted", len(q.buckets))
	}
}

func alterQuota(t *testing.T, adm *kadm.Client, parts map[string]string, ops map[string]float64) {
	t.Helper()
	var e kadm.ClientQuotaEntity
	for kind, name := range parts {
		c := kadm.ClientQuotaEntityComponent{Type: kind, Name: kmsg.StringPtr(name)}
		if name == "*" {
			c.Name = nil
		}
		e = append(e, c)
	}
	entry := kadm.AlterClientQuotaEntry{Entity: e}
	for key, value := range ops {
		entry.Ops = append(entry.Ops, kadm.AlterClientQuotaOp{Key: key, Value: value, Remove: value == 0})
	}
	got, err := adm.AlterClientQuotas(within(t, 30*time.Second), []kadm.AlterClientQuotaEntry{entry})
	if err != nil || len(got) != 1 || got[0].Err != nil {
		t.Fatalf("alter %v: %+v, %v", parts, got, err)
	}
}

func TestQuotasAreDescribedAsTheyWereAltered(t *testing.T) {
	b := startBroker(t, nil)
	adm := kadm.NewClient(b.client(t))
	alterQuota(t, adm, map[string]string{"user": "alice"}, map[string]float64{producerByteRate: 1000, requestPercentage: 12.5})
	alterQuota(t, adm, map[string]string{"user": "alice", "client-id": "c"}, map[string]float64{consumerByteRate: 2000})
	alterQuota(t, adm, map[string]string{"user": "*"}, map[string]float64{producerByteRate: 3000})
	alterQuota(t, adm, map[string]string{"client-id": "*"}, map[string]float64{controllerMutationRate: 5})
	alterQuota(t, adm, map[string]string{"ip": "10.0.0.1"}, map[string]float64{connectionCreationRate: 7})
	alterQuota(t, adm, map[string]string{"user": "alice"}, map[string]float64{requestPercentage: 0})
	b = b.restart(t)
	adm = kadm.NewClient(b.client(t))
	every := func(kind string) kadm.DescribeClientQuotaComponent {
		return kadm.DescribeClientQuotaComponent{Type: kind, MatchType: kmsg.QuotasMatchTypeAny}
	}
	for name, c := range map[string]struct {
		strict bool
		filter []kadm.DescribeClientQuotaComponent
		want   int
	}{
		"everything":        {false, nil, 5},
		"users":             {false, []kadm.DescribeClientQuotaComponent{every("user")}, 3},
		"users alone":       {true, []kadm.DescribeClientQuotaComponent{every("user")}, 2},
		"alice":             {false, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: kmsg.StringPtr("alice")}}, 2},
		"the default user":  {false, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchType: kmsg.QuotasMatchTypeDefault}}, 1},
		"users and clients": {true, []kadm.DescribeClientQuotaComponent{every("user"), every("client-id")}, 1},
		"addresses":         {true, []kadm.DescribeClientQuotaComponent{every("ip")}, 1},
		"nobody":            {true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: kmsg.StringPtr("eve")}}, 0},
	} {
		got, err := adm.DescribeClientQuotas(within(t, 30*time.Second), c.strict, c.filter)
		if err != nil || len(got) != c.want {
			t.Errorf("%s: %v, %v, want %d", name, got, err, c.want)
		}
	}
	got, err := adm.DescribeClientQuotas(within(t, 30*time.Second), true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: kmsg.StringPtr("alice")}})
	if err != nil || len(got) != 1 || len(got[0].Values) != 1 || got[0].Values[0].Key != producerByteRate || got[0].Values[0].Value != 1000 {
		t.Errorf("alice: %+v, %v", got, err)
	}
}

func TestQuotasThatAreRefused(t *testing.T) {
	b := startBroker(t, nil)
	type part = kmsg.AlterClientQuotasRequestEntryEntity
	type op = kmsg.AlterClientQuotasRequestEntryOp
	name := kmsg.StringPtr
	rate := []op{{Key: producerByteRate, Value: 1}}
	for what, c := range map[string]struct {
		entity []part
		ops    []op
	}{
		"nobody":                  {nil, rate},
		"an unknown kind":         {[]part{{Type: "planet", Name: name("mars")}}, rate},
		"a kind twice":            {[]part{{Type: "user", Name: name("a")}, {Type: "user", Name: name("b")}}, rate},
		"an empty name":           {[]part{{Type: "user", Name: name("")}}, rate},
		"ip with user":            {[]part{{Type: "user", Name: name("a")}, {Type: "ip", Name: name("1.2.3.4")}}, rate},
		"no address":              {[]part{{Type: "ip", Name: name("not an address")}}, []op{{Key: connectionCreationRate, Value: 1}}},
		"a client's of an ip":     {[]part{{Type: "ip", Name: name("1.2.3.4")}}, rate},
		"an ip's of a client":     {[]part{{Type: "user", Name: name("a")}}, []op{{Key: connectionCreationRate, Value: 1}}},
		"an unknown limit":        {[]part{{Type: "user", Name: name("a")}}, []op{{Key: "coffee_rate", Value: 1}}},
		"nothing at all":          {[]part{{Type: "user", Name: name("a")}}, []op{{Key: producerByteRate, Value: 0}}},
		"less than nothing":       {[]part{{Type: "user", Name: name("a")}}, []op{{Key: producerByteRate, Value: -1}}},
		"half a byte":             {[]part{{Type: "user", Name: name("a")}}, []op{{Key: producerByteRate, Value: 1.5}}},
		"one good and one of bad": {[]part{{Type: "user", Name: name("a")}}, []op{{Key: producerByteRate, Value: 1}, {Key: "coffee_rate", Value: 1}}},
	} {
		q := kmsg.NewPtrAlterClientQuotasRequest()
		q.Entries = append(q.Entries, kmsg.AlterClientQuotasRequestEntry{Entity: c.entity, Ops: c.ops})
		resp, err := q.RequestWith(within(t, 30*time.Second), b.client(t))
		if err != nil || len(resp.Entries) != 1 || resp.Entries[0].ErrorCode != kerr.InvalidRequest.Code || resp.Entries[0].ErrorMessage == nil {
			t.Errorf("%s: %+v, %v", what, resp, err)
		}
	}
	if n := len(b.ctl.Image().Quotas); n != 0 {
		t.Errorf("%d quotas after nothing but refusals", n)
	}
}

func TestAProducerIsHeldToItsQuota(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 1)
	// A window's worth is 10 000 bytes: the request is more by half a second's.
	alterQuota(t, kadm.NewClient(cl), map[string]string{"client-id": "test"}, map[string]float64{producerByteRate: 1000})
	nc := dial(t, b.Addr("plain"))
	sent := time.Now() // the throttle begins later, and before the answer is read
	body, err := exchange(t, nc, frameOf(produceOf(t, b, "t", make([]byte, 10_500)), 8))
	if err != nil {
		t.Fatal(err)
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 8
	if err := resp.ReadFrom(body); err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("%+v, %v", resp, err)
	}
	if resp.ThrottleMillis < 400 || resp.ThrottleMillis > 1000 {
		t.Errorf("throttled for %d ms", resp.ThrottleMillis)
	}
	// Whoever does not heed it is not served meanwhile.
	if _, err := exchange(t, nc, frameOf(kmsg.NewPtrApiVersionsRequest(), 0)); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(sent), time.Duration(resp.ThrottleMillis)*time.Millisecond*9/10; took < least {
		t.Errorf("served again after %v, throttled for %d ms", took, resp.ThrottleMillis)
	}
	if b.Metrics().Throttled.Load() == 0 {
		t.Error("no throttle was counted")
	}
}

func TestTopicsBeyondTheQuotaAreRefused(t *testing.T) {
	b := startBroker(t, nil)
	adm := kadm.NewClient(b.client(t))
	ctx := within(t, 30*time.Second)
	alterQuota(t, adm, map[string]string{"user": "*"}, map[string]float64{controllerMutationRate: 1})
	for i, want := range []error{nil, nil, kerr.ThrottlingQuotaExceeded} {
		// The second overdraws the window's ten by a minute's, so the third has to wait.
		got, err := adm.CreateTopics(ctx, []int32{8, 62, 1}[i], 1, nil, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := got[fmt.Sprint(i)].Err; !errors.Is(err, want) {
			t.Errorf("topic %d: %v, want %v", i, err, want)
		}
	}
	if b.topic("2") != nil {
		t.Error("the topic that was refused is there")
	}
}

// produceOf is a Produce of one record to partition 0.
func produceOf(t *testing.T, b *testBroker, topic string, value []byte) *kmsg.ProduceRequest {
	t.Helper()
	q := kmsg.NewPtrProduceRequest()
	q.Acks, q.TimeoutMillis = -1, 5000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, b.topic(topic).ID
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = testBatch(t, record.NoProducer(record.None), record.Record{Timestamp: time.Now().UnixMilli(), Value: value})
	rt.Partitions = append(rt.Partitions, p)
	q.Topics = append(q.Topics, rt)
	return q
}

func TestAConsumerIsHeldToItsQuota(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t, kgo.AllowAutoTopicCreation(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err := cl.ProduceSync(within(t, 30*time.Second), &kgo.Record{Topic: "t", Value: make([]byte, 5000)}, &kgo.Record{Topic: "t", Value: make([]byte, 100)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	alterQuota(t, kadm.NewClient(cl), map[string]string{"user": "*"}, map[string]float64{consumerByteRate: 600})
	reader := b.client(t)
	fetch := func() *kmsg.FetchResponse {
		resp, err := fetchRequest(b, "t", 0, 0).RequestWith(within(t, 30*time.Second), reader)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	began := time.Now()
	if resp := fetch(); resp.ThrottleMillis != 0 || len(resp.Topics) == 0 {
		t.Errorf("the first answer: throttled for %d ms, %d topics", resp.ThrottleMillis, len(resp.Topics))
	}
	resp := fetch()
	passed := int32(time.Since(began).Milliseconds()) // a millisecond less to wait for each
	if resp.ThrottleMillis < 5000-passed || resp.ThrottleMillis > 9000 || len(resp.Topics) != 0 {
		t.Errorf("the second answer: throttled for %d ms, %d topics", resp.ThrottleMillis, len(resp.Topics))
	}
}

func TestConnectionsBeyondTheQuotaAreClosed(t *testing.T) {
	b := startBroker(t, nil)
	alterQuota(t, kadm.NewClient(b.client(t)), map[string]string{"ip": "*"}, map[string]float64{connectionCreationRate: 1})
	served, began := 0, time.Now()
	for range 300 {
		nc, err := net.Dial("tcp", b.Addr("plain"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := exchange(t, nc, frameOf(kmsg.NewPtrApiVersionsRequest(), 0)); err == nil {
			served++
			continue
		}
		break
	}
	if most := 15 + int(time.Since(began).Seconds()); served < 9 || served > most {
		t.Errorf("%d connections at once were served, want a window's worth", served)
	}
	if b.Metrics().ConnectionsRefused.Load() == 0 {
		t.Error("no refusal was counted")
	}
}
