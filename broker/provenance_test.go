package broker

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/ledger"
)

func newGathered() *gathered { return &gathered{open: map[runKey]*run{}} }

// TestTurnsOnAPartitionAreFewEntries: producers that take turns leave one entry
// each, which says exactly what was theirs.
func TestTurnsOnAPartitionAreFewEntries(t *testing.T) {
	const producers, batches = 4, 5_000
	g := newGathered()
	part := &replica.Partition{Identity: replica.Identity{Topic: "orders"}}
	client := &Client{Principal: "User:shop"}
	now := time.Now()
	for i := range int64(batches) {
		g.note(runKey{partition: part, client: client, producerID: i % producers}, 2*i, 2*i+1, now)
	}
	runs, lost := g.take()
	if len(runs) != producers || lost != 0 {
		t.Fatalf("%d runs, %d lost", len(runs), lost)
	}
	size := 0
	for _, r := range runs {
		e := r.entry().(*ledger.Production)
		if n := int64(len(e.Parts)); n != batches/producers || e.Records != 2*n || e.Place.Offsets() != 2*n {
			t.Errorf("producer %d: %d parts, %d records", e.ProducerID, n, e.Records)
		}
		for _, s := range e.Parts {
			if s.First/2%producers != e.ProducerID || s.Last != s.First+1 {
				t.Fatalf("producer %d is said to have produced %d to %d", e.ProducerID, s.First, s.Last)
			}
		}
		size += len(ledger.AppendEntry(nil, e))
	}
	if size > 3*batches {
		t.Errorf("%d bytes for %d batches", size, batches)
	}
}

func TestRuns(t *testing.T) {
	for name, c := range map[string]struct {
		noted [][2]int64
		want  [][][2]int64 // the parts of each run
	}{
		"that go on":             {[][2]int64{{0, 4}, {5, 9}}, [][][2]int64{{{0, 9}}}},
		"told again":             {[][2]int64{{0, 9}, {5, 12}, {3, 6}}, [][][2]int64{{{0, 12}}}},
		"with a hole":            {[][2]int64{{0, 4}, {7, 9}, {10, 11}}, [][][2]int64{{{0, 4}, {7, 11}}}},
		"read again from before": {[][2]int64{{5, 9}, {0, 9}}, [][][2]int64{{{0, 9}}, {{5, 9}}}},
		"read again in a part":   {[][2]int64{{0, 1}, {5, 9}, {4, 6}}, [][][2]int64{{{0, 1}, {5, 9}}, {{4, 6}}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGathered()
			key := runKey{partition: &replica.Partition{}, client: &Client{}, kind: ledger.Fetched}
			now := time.Now()
			for _, s := range c.noted {
				g.note(key, s[0], s[1], now)
			}
			var got [][][2]int64
			runs, _ := g.take()
			for _, r := range runs {
				var parts [][2]int64
				for _, s := range r.parts {
					parts = append(parts, [2]int64{s.First, s.Last})
				}
				got = append(got, parts)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// While the ledger takes nothing, as on a disk that hangs, what waits is bounded
// in bytes, whatever clients call themselves, and what is dropped is counted.
func TestProvenanceThatCannotBeWrittenIsBounded(t *testing.T) {
	part := &replica.Partition{Identity: replica.Identity{Topic: "orders"}}
	for name, id := range map[string]string{"short names": "app", "long names": strings.Repeat("a", 30_000)} {
		t.Run(name, func(t *testing.T) {
			g := newGathered()
			client := &Client{Principal: "User:shop", ClientID: id}
			const noted = 400_000
			for i := range int64(noted) {
				switch i % 3 {
				case 0:
					g.note(runKey{partition: part, client: client, producerID: i}, 0, 0, time.Time{}) // a producer of its own
				case 1:
					g.note(runKey{partition: part, client: client, kind: ledger.Fetched}, 10*i, 10*i, time.Time{})
				default:
					g.note(runKey{partition: part, client: client, kind: ledger.Committed, group: "g"}, 10*(noted-i), 10*(noted-i), time.Time{})
				}
			}
			if most := waitingBytes + runBytes + len(id) + 100; g.bytes > most {
				t.Errorf("%d bytes are held", g.bytes)
			}
			runs, lost := g.take()
			parts := int64(0)
			for _, r := range runs {
				parts += int64(len(r.parts))
			}
			if parts+lost != noted || lost == 0 {
				t.Errorf("%d wait and %d are lost of %d", parts, lost, noted)
			}
			g.note(runKey{partition: part, client: client}, 5, 9, time.Time{})
			if runs, lost := g.take(); len(runs) != 1 || lost != 0 {
				t.Errorf("afterwards %d wait and %d are lost, want 1 and none", len(runs), lost)
			}
		})
	}
}

// TestLongNamesOfClientsDoNotLoseOthers: pages are bounded by bytes, and what a
// client calls itself is shortened.
func TestLongNamesOfClientsDoNotLoseOthers(t *testing.T) {
	b := startBroker(t, nil)
	alice := b.client(t, kgo.ClientID("alices-app"), kgo.AllowAutoTopicCreation())
	produceN(t, alice, "t", 0, 10)
	orders := b.topic("t").partitions[0]
	for i := range 2_000 {
		loud := &Client{Principal: "User:eve", ClientID: strings.Repeat("é", 10_000), Software: string(rune('a' + i%26))}
		b.provenance.fetched(loud, orders, 0, 9)
	}
	b = b.restart(t) // writes what is left
	if n := b.metrics.ProvenanceLost.Load(); n != 0 {
		t.Errorf("%d entries are lost", n)
	}
	var alices, loud int
	for _, e := range ledgerEntries(t, b) {
		switch e := e.(type) {
		case *ledger.Production:
			alices += int(e.Records)
		case *ledger.Access:
			if n := len(e.ClientID); n > maxName+3 || !strings.HasSuffix(e.ClientID, "é…") {
				t.Fatalf("client id of %d bytes: %q", n, e.ClientID)
			}
			loud++
		}
	}
	if alices != 10 || loud == 0 {
		t.Errorf("%d records of alice, %d accesses", alices, loud)
	}
}
