package broker

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAnswersAreCountedBeforeTheyAreMade: whatever an answer is about, it takes no
// more than its handler has said, and nothing is made after that was too much.
func TestAnswersAreCountedBeforeTheyAreMade(t *testing.T) {
	b := startBroker(t, func(c *Config) { c.Provenance = false })
	if _, err := b.createTopic("t", 2000, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := b.createTopic(fmt.Sprintf("t%d", i), 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	configs, page, dirs := kmsg.NewPtrDescribeConfigsRequest(), kmsg.NewPtrDescribeTopicPartitionsRequest(), kmsg.NewPtrDescribeLogDirsRequest()
	configs.IncludeDocumentation, configs.IncludeSynonyms = true, true
	for i := range 100 {
		configs.Resources = append(configs.Resources, kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: fmt.Sprintf("t%d", i)})
	}
	page.ResponsePartitionLimit = maxDescribedPartitions
	page.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "t"}}
	dirs.Topics = nil
	all := kmsg.NewPtrMetadataRequest()
	all.Topics = nil
	for name, q := range map[string]kmsg.Request{"metadata": all, "configs": configs, "a page of partitions": page, "log dirs": dirs} {
		row := b.table[q.Key()]
		q.SetVersion(row.max)
		answer := func(most int64) (size int, took int64) {
			r := b.asker(kmsg.Key(q.Key()))
			r.body = q
			r.conn = &conn{afford: func(_ *request, n int64) error {
				if took += n; took > most {
					return errShort
				}
				return nil
			}}
			resp, err := row.handle.begin(b.Broker, t.Context(), r)(t.Context())
			if err != nil || (r.unpaid != nil) != (took > most) {
				t.Fatalf("%s: %v, %v", name, err, r.unpaid)
			}
			return len(appendResponse(nil, 1, resp)), took + r.owed
		}
		size, took := answer(1 << 40)
		if size < spendStep || took < int64(2*size) {
			t.Errorf("%s: %d bytes are counted for an answer of %d", name, took, size)
		}
		if cut, _ := answer(spendStep); cut > size/2 {
			t.Errorf("%s: %d bytes of %d are made although there is no memory", name, cut, size)
		}
	}
}

// TestDeafClientsHoldNoMoreThanTheBudget, and those that listen are answered: the
// deaf are cut.
func TestDeafClientsHoldNoMoreThanTheBudget(t *testing.T) {
	const most = 4 << 20
	lines := &logLines{}
	b := startBroker(t, func(c *Config) {
		saslConfig(lines)(c)
		c.Provenance = false
		c.Limits.MaxAnswerBytes = most
	})
	b.answers.patience = time.Second                         // which one that listens keeps to, also on a busy machine
	if _, err := b.createTopic("t", 5000, nil); err != nil { // 130 KB, and 1 MiB before it is encoded
		t.Fatal(err)
	}
	q := kmsg.NewPtrMetadataRequest()
	q.Topics = nil
	frame := frameOf(q, 9)
	for range 60 {
		nc := dial(t, b.Addr("plain"))
		if err := nc.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		go func() {
			for range 100 { // more than the system buffers
				if _, err := nc.Write(frame); err != nil {
					return
				}
			}
		}()
	}
	cl := b.client(t)
	for range 5 {
		resp, err := kmsg.NewPtrMetadataRequest().RequestWith(within(t, 30*time.Second), cl)
		if err != nil || len(resp.Topics) == 0 {
			t.Fatalf("a client that listens: %v", err)
		}
		if left := b.answers.left(); left < 0 {
			t.Errorf("%d bytes are held, %d is the budget", most-left, most)
		}
	}
	// They are deaf when the system's buffers are full, some thirty answers later, which
	// take a busy machine a while to make under the race detector.
	deadline := time.Now().Add(3 * time.Minute)
	for tick := time.NewTicker(time.Millisecond); lines.count(errShort.Error()) == 0 || b.metrics.ConnectionsCut.Load() == 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("none is cut: the deaf were nobody's trouble")
		}
	}
}
