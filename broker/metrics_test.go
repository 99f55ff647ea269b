package broker

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestWhatHappensIsCounted(t *testing.T) {
	b := startBroker(t, saslConfig(&logLines{}))
	cl := b.client(t, kgo.AllowAutoTopicCreation())
	produceN(t, cl, "t", 0, 10)
	consumeN(t, cl, "t", 10)
	_ = b.secureClient(t, scram256("eve", "x")).Ping(within(t, 10*time.Second))
	if _, err := exchange(t, dial(t, b.Addr("plain")), []byte{0, 0, 0, 12, 0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}); err == nil {
		t.Fatal("unknown api key answered")
	}
	stored := b.Stored()
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
	if r := seen["Produce"]; r.Answered < 1 || r.Took <= 0 || len(seen) != len(apis()) {
		t.Errorf("Produce: %+v of %d apis", r, len(seen))
	}
}
