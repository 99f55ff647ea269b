package broker

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A topic may be asked for by id with no name, or with an empty one, as Java's
// admin client does.
func TestMetadataByTopicID(t *testing.T) {
	b := startBroker(t, nil)
	cl := b.client(t)
	made, err := kadm.NewClient(cl).CreateTopic(within(t, 30*time.Second), 1, 1, nil, "orders")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		topic *string
		id    [16]byte
		want  *kerr.Error
	}{
		"no name":              {nil, made.ID, nil},
		"an empty name":        {kmsg.StringPtr(""), made.ID, nil},
		"an id that is none":   {kmsg.StringPtr(""), [16]byte{1}, kerr.UnknownTopicID},
		"neither":              {nil, [16]byte{}, kerr.UnknownTopicID},
		"an empty name, no id": {kmsg.StringPtr(""), [16]byte{}, kerr.InvalidTopicException},
	} {
		q := kmsg.NewPtrMetadataRequest()
		q.Topics = []kmsg.MetadataRequestTopic{{Topic: c.topic, TopicID: c.id}}
		resp, err := q.RequestWith(within(t, 30*time.Second), cl)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := resp.Topics[0]
		if err := kerr.ErrorForCode(got.ErrorCode); c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want == nil && (got.Topic == nil || *got.Topic != "orders" || len(got.Partitions) != 1) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
