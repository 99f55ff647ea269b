package broker

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/vfs"
)

func TestWhatHappensIsCounted(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 10)
	consumeN(t, cl, "t", 10)
	_ = b.secureClient(t, scram256("eve", "x")).Ping(within(t, 30*time.Second))
	if _, err := exchange(t, dial(t, b.Addr("plain")), []byte{0, 0, 0, 12, 0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}); err == nil {
		t.Fatal("unknown api key answered")
	}
	stored := b.Stored()
	unknown := kmsg.NewPtrMetadataRequest()
	unknown.Topics = []kmsg.MetadataRequestTopic{{Topic: kmsg.StringPtr("none")}}
	if _, err := askOver(t, dial(t, b.Addr("plain")), unknown, 4, kmsg.NewPtrMetadataResponse()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	m := b.Metrics()
	for name, c := range map[string]struct{ got, least int64 }{
		"produced records":       {m.ProducedRecords.Load(), 10},
		"produced bytes":         {m.ProducedBytes.Load(), 100},
		"fetched bytes":          {m.FetchedBytes.Load(), 100},
		"authentications failed": {m.AuthenticationsFailed.Load(), 1},
		"malformed requests":     {m.MalformedRequests.Load(), 1},
		"provenance entries":     {m.ProvenanceEntries.Load(), 2},
		"stored bytes":           {stored.Bytes, 100},
		"stored partitions":      {int64(stored.Partitions), 1 + 8 + 8 + ledgerPartitions},
	} {
		if c.got < c.least {
			t.Errorf("%s: %d, want at least %d", name, c.got, c.least)
		}
	}
	if n := m.Connections.Load(); n != 0 {
		t.Errorf("%d connections after a stop", n)
	}
	seen := map[string]RequestMetrics{}
	for name, r := range m.Requests() {
		seen[name] = r
	}
	r := seen["Produce"]
	if r.Answered < 1 || r.Took <= 0 || r.ReceivedBytes < 100 || r.Within[len(r.Within)-1] != r.Answered || len(seen) != len(apis()) {
		t.Errorf("Produce: %+v of %d apis", r, len(seen))
	}
	if n := seen["Metadata"].Errors[kerr.UnknownTopicOrPartition.Code]; n != 1 {
		t.Errorf("%d unknown topics, want 1: %v", n, seen["Metadata"].Errors)
	}
}

// TestErrorsOfEveryAnswerAreFound: what reflection finds is what the codec has.
func TestErrorsOfEveryAnswerAreFound(t *testing.T) {
	for _, row := range apis() {
		resp := newRequest(row.key).ResponseKind()
		var set int
		fillErrors(reflect.ValueOf(resp).Elem(), &set)
		found := 0
		if f, ok := resp.(*kmsg.FetchResponse); ok {
			eachError(&fetchAnswer{FetchResponse: f}, func(int16) { found++ })
		} else {
			eachError(resp, func(int16) { found++ })
		}
		if found != set {
			t.Errorf("%s: %d errors found of %d", apiName(row.key), found, set)
		}
	}
}

// fillErrors gives every list two elements and sets every error code.
func fillErrors(v reflect.Value, set *int) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case v.Type().Field(i).Name == "ErrorCode":
			f.SetInt(7)
			*set++
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			f.Set(reflect.MakeSlice(f.Type(), 2, 2))
			fillErrors(f.Index(0), set)
			fillErrors(f.Index(1), set)
		}
	}
}

func TestHealthNamesWhatFailed(t *testing.T) {
	b := startBroker(t, nil)
	if faults := b.Health(); len(faults) != 0 {
		t.Fatalf("a new broker: %v", faults)
	}
	b.fs.FailNext(vfs.OpSync, "metadata.tmp", 1, errors.New("the disk is on fire"))
	if _, err := kadm.NewClient(b.client(t)).CreateTopic(within(t, 30*time.Second), 1, 1, nil, "t"); err == nil {
		t.Error("a topic is made that is not on disk")
	}
	if faults := b.Health(); len(faults) != 1 || !strings.Contains(faults[0], "on fire") {
		t.Errorf("metadata that cannot be written: %v", faults)
	}
}
