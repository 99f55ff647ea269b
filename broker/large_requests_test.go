package broker

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLargeRequestsAreAnswered: what a client of very many topics asks for is larger
// than 1 MiB.
func TestLargeRequestsAreAnswered(t *testing.T) {
	b := startBroker(t, nil)
	if _, err := b.createTopic("t", 1, nil); err != nil {
		t.Fatal(err)
	}
	metadata := kmsg.NewPtrMetadataRequest()
	for i := range 5_000 {
		name := fmt.Sprintf("%0240d", i)
		metadata.Topics = append(metadata.Topics, kmsg.MetadataRequestTopic{Topic: &name})
	}
	fetch := kmsg.NewPtrFetchRequest()
	for i := range 20_000 {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition = int32(i)
		topic := kmsg.FetchRequestTopic{Topic: fmt.Sprintf("t%030d", i), Partitions: []kmsg.FetchRequestTopicPartition{part}}
		fetch.Topics = append(fetch.Topics, topic)
	}
	for name, frame := range map[string][]byte{"Metadata": frameOf(metadata, 12), "Fetch": frameOf(fetch, 12)} {
		if len(frame) < 1<<20 {
			t.Fatalf("%s of %d bytes", name, len(frame))
		}
		if body, err := exchange(t, dial(t, b.Addr("plain")), frame); err != nil || len(body) < 20*5_000 {
			t.Errorf("%s of %d bytes: %d bytes, %v", name, len(frame), len(body), err)
		}
	}
}

// TestTheLogSaysWhichRequestIsTooLarge, and how large.
func TestTheLogSaysWhichRequestIsTooLarge(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, saslConfig(lines))
	frame := frameOf(kmsg.NewPtrMetadataRequest(), 12)
	binary.BigEndian.PutUint32(frame, maxFrame+1)
	if _, err := exchange(t, dial(t, b.Addr("plain")), frame); err == nil {
		t.Fatal("answered")
	}
	b.stop()
	if want := fmt.Sprintf("Metadata of %d bytes, %d is the limit", maxFrame+1, maxFrame); lines.count(want) != 1 {
		t.Errorf("the log does not say %q", want)
	}
}

// TestWhatIsNamedTwiceIsAnsweredOnce: else an answer would be as many times as large
// as what it is about.
func TestWhatIsNamedTwiceIsAnsweredOnce(t *testing.T) {
	b := startBroker(t, nil)
	made, err := b.createTopic("t", 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	cl := b.client(t)
	const times = 1000
	metadata, byID, configs, groups, consumers, txns := kmsg.NewPtrMetadataRequest(), kmsg.NewPtrMetadataRequest(), kmsg.NewPtrDescribeConfigsRequest(),
		kmsg.NewPtrDescribeGroupsRequest(), kmsg.NewPtrConsumerGroupDescribeRequest(), kmsg.NewPtrDescribeTransactionsRequest()
	for range times {
		metadata.Topics = append(metadata.Topics, kmsg.MetadataRequestTopic{Topic: kmsg.StringPtr("t")})
		byID.Topics = append(byID.Topics, kmsg.MetadataRequestTopic{TopicID: made.ID})
		configs.Resources = append(configs.Resources,
			kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t"},
			kmsg.DescribeConfigsRequestResource{ResourceType: kmsg.ConfigResourceTypeTopic, ResourceName: "t", ConfigNames: []string{"retention.ms"}})
		groups.Groups = append(groups.Groups, "g")
		consumers.Groups = append(consumers.Groups, "g")
		txns.TransactionalIDs = append(txns.TransactionalIDs, "x")
	}
	metadata.SetVersion(12)
	byID.SetVersion(12)
	var got strings.Builder
	fmt.Fprint(&got, len(call[*kmsg.MetadataResponse](t, cl, metadata).Topics), len(call[*kmsg.MetadataResponse](t, cl, byID).Topics),
		len(call[*kmsg.DescribeConfigsResponse](t, cl, configs).Resources), len(call[*kmsg.DescribeGroupsResponse](t, cl, groups).Groups),
		len(call[*kmsg.ConsumerGroupDescribeResponse](t, cl, consumers).Groups), len(call[*kmsg.DescribeTransactionsResponse](t, cl, txns).TransactionStates))
	if want := "1 1 2 1 1 1"; got.String() != want {
		t.Errorf("answers have %s, want %s", got.String(), want)
	}
}
