package lineage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/record"
)

// held is a record as a transactional producer wrote it, with what is known of him.
func held(t *testing.T, headers ...record.Header) *Found {
	t.Helper()
	rec := record.Record{Timestamp: t0.UnixMilli(), Value: []byte("secret"), Headers: headers}
	b, err := record.Encode([]record.Record{rec}, record.Stamp{
		ProducerID: 4000, ProducerEpoch: 2, BaseSequence: 17, Attributes: record.Attributes(record.LZ4).WithTransactional(true),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.SetBaseOffset(60)
	b.SetLeaderEpoch(5)
	rec.Offset = 60
	return &Found{Batch: b, Record: &rec, Producer: &ProducerState{ProducerEpoch: 3, CoordinatorEpoch: 9, LastAt: new(time.Time)}, TransactionalID: "till-1"}
}

// shown draws what of records is in an answer.
func shown(a *Answer) (lines []string) {
	for _, n := range a.Nodes {
		s := n.Stored
		switch {
		case s == nil:
			continue
		case s.NotShown != "":
			lines = append(lines, n.Cluster+" not: "+s.NotShown)
			continue
		}
		b := s.Batch
		line := fmt.Sprintf("%s %s %d/%d/%d %v %s %s leader %d", n.Cluster, b.Basis, b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional, b.TimestampType, b.Compression, b.LeaderEpoch)
		if s.Producer != nil {
			line += fmt.Sprintf(", %s %d %d", s.Producer.Basis, s.Producer.ProducerEpoch, s.Producer.CoordinatorEpoch)
		}
		line += " " + s.TransactionalID
		for _, h := range s.Headers {
			line += " " + h.Key
			if h.Value != nil {
				line += "=" + *h.Value
			}
		}
		lines = append(append(lines, line), s.Unknown...)
	}
	return lines
}

const ofTheBatch = "b batch 4000/2/17 true CreateTime lz4 leader 5, producer-state 3 9 "

// TestStored: what is read of which places, and who sees what of it. Clusters a and c
// record who produced, b and d do not.
func TestStored(t *testing.T) {
	const needed = "b not: Read on the topic is needed to see what is in records"
	const hidden = "the transactional id: Describe on it, or on the cluster, is needed to see whether there is one still"
	see := func(more ...string) rights {
		r := rights{"id-a/orders": true, "id-b/orders": true, "id-c/orders": true}
		for _, m := range more {
			r[m] = true
		}
		return r
	}
	for _, c := range []struct {
		name    string
		auth    rights
		headers Headers
		at      Address
		change  func(*Found)
		want    []string
	}{
		{"keys", nil, HeadersAuto, orders("b", 1060), nil, []string{ofTheBatch + "till-1 trace tenant"}},
		{"and values, and of where it was produced", nil, HeadersValues, orders("b", 1060), nil, []string{ofTheBatch + "till-1 trace=t tenant=acme", "a not: no record there"}},
		{"a cluster that records who produced", nil, HeadersAuto, orders("a", 60), nil, nil},
		{"unless it is asked for", nil, HeadersKeys, orders("a", 60), nil, []string{"a not: no record there"}},
		{"nothing", nil, HeadersNone, orders("b", 1060), nil, nil},
		{"who may describe only", see(), HeadersValues, orders("b", 1060), nil, []string{needed, "a not" + strings.TrimPrefix(needed, "b not")}},
		{"who may read", see("read id-b/orders"), HeadersAuto, orders("b", 1060), nil, []string{ofTheBatch + " trace tenant", hidden}},
		{"who may read, and describe the transactional id", see("read id-b/orders", "id-b/transactional/till-1"), HeadersAuto, orders("b", 1060), nil, []string{ofTheBatch + "till-1 trace tenant"}},
		{
			"who may read: that there is none is told as one that is hidden", see("read id-b/orders"), HeadersAuto, orders("b", 1060),
			func(f *Found) { f.TransactionalID = "" },
			[]string{ofTheBatch + " trace tenant", hidden},
		},
		{
			"who may read: nor why it cannot be told", see("read id-b/orders"), HeadersAuto, orders("b", 1060),
			func(f *Found) { f.TransactionalID, f.TransactionalIDErr = "", errors.New("no coordinator answers") },
			[]string{ofTheBatch + " trace tenant", hidden},
		},
		{
			"no coordinator", nil, HeadersAuto, orders("b", 1060),
			func(f *Found) { f.TransactionalID, f.TransactionalIDErr = "", errors.New("no coordinator answers") },
			[]string{ofTheBatch + " trace tenant", "the transactional id: no coordinator answers"},
		},
		{
			"a transactional id that is forgotten, a producer that is not told of", nil, HeadersAuto, orders("b", 1060),
			func(f *Found) { f.TransactionalID, f.Producer, f.ProducerErr = "", nil, errors.New("no right") },
			[]string{"b batch 4000/2/17 true CreateTime lz4 leader 5  trace tenant", "the producer's state: no right", "the transactional id: no coordinator knows the producer id any more"},
		},
		{
			"a producer that is not known any more", nil, HeadersAuto, orders("b", 1060), func(f *Found) { f.Producer = nil },
			[]string{"b batch 4000/2/17 true CreateTime lz4 leader 5 till-1 trace tenant", "the producer's state: the cluster does not know producer id 4000 in the partition any more"},
		},
		{
			"no producer id", nil, HeadersAuto, orders("b", 1060),
			func(f *Found) {
				f.Batch.Restamp(record.NoProducer(record.None))
				f.Producer, f.TransactionalID = nil, ""
			},
			[]string{"b batch -1/-1/-1 false CreateTime none leader 5  trace tenant", "the producer: the batch has no producer id"},
		},
	} {
		f := held(t, record.Header{Key: "trace", Value: []byte("t")}, record.Header{Key: "tenant", Value: []byte("acme")})
		if c.change != nil {
			c.change(f)
		}
		l := &live{records: map[string]*Found{"id-b": f}}
		x, in := open(t, Config{Live: l, Authorizer: c.auth})
		chain(in)
		a, err := x.Event(t.Context(), alice, c.at)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		x.Stored(t.Context(), alice, a, c.headers)
		if got := shown(a); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n  %s\nwant\n  %s", c.name, strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
		}
		for _, at := range l.read {
			if at.Cluster == "id-b" && at != (At{Cluster: "id-b", Topic: "orders", TopicID: id('b'), Offset: 1060}) {
				t.Errorf("%s: read at %+v", c.name, at)
			}
		}
		if c.auth != nil && !c.auth["read id-b/orders"] && len(l.read) > 0 {
			t.Errorf("%s: records were read: %+v", c.name, l.read)
		}
	}
}

// TestStoredOfHiddenPlaces: where the event was produced is not read for who may not see
// it, nor what a topic held that was recreated.
func TestStoredOfHiddenPlaces(t *testing.T) {
	l := &live{}
	x, in := open(t, Config{Live: l, Authorizer: rights{"id-b/orders": true, "read id-b/orders": true, "read id-a/orders": true}})
	chain(in)
	a, err := x.Event(t.Context(), alice, orders("b", 1060))
	if err != nil {
		t.Fatal(err)
	}
	x.Stored(t.Context(), alice, a, HeadersValues)
	if len(l.read) != 1 || l.read[0].Cluster != "id-b" {
		t.Errorf("read %+v", l.read)
	}

	l = &live{}
	x, in = open(t, Config{Live: l})
	b := begin('a', 'b', 1)
	in.page('b', b, hop('a', 'b', 1, 0, 100, 1000))
	again := *b
	again.Copy.Destination.TopicID = ledger.TopicID{'b', 2}
	again.At = again.At.Add(time.Hour)
	in.page('b', &again)
	at := orders("b", 1060)
	at.TopicID = id('b').String()
	if a, err = x.Event(t.Context(), alice, at); err != nil {
		t.Fatal(err)
	}
	x.Stored(t.Context(), alice, a, HeadersKeys)
	if got := shown(a); len(l.read) != 1 || l.read[0].Cluster != "id-a" || len(got) != 2 || !strings.Contains(got[0], "recreated") {
		t.Errorf("read %+v, got %q", l.read, got)
	}
}

// TestHeadersAreBounded: whatever a producer has put there, the answer is small, and text.
func TestHeadersAreBounded(t *testing.T) {
	long := strings.Repeat("\u00e9", 3000)
	f := held(t, record.Header{Key: strings.Repeat("k", 1000), Value: []byte(long)}, record.Header{Key: "\xff", Value: []byte{0xff}}, record.Header{Key: "null"},
		record.Header{Key: "empty", Value: []byte{}})
	for range 200 {
		f.Record.Headers = append(f.Record.Headers, record.Header{Key: "more"})
	}
	s := stored(f, true)
	if len(s.Headers) != mostHeaders || s.More != 204-mostHeaders {
		t.Errorf("got %d headers, and %d more", len(s.Headers), s.More)
	}
	first := s.Headers[0]
	if len(first.Key) != mostHeaderKey || !first.Cut || first.Bytes != 6000 || !strings.HasPrefix(long, *first.Value) || len(*first.Value) != mostHeaderValue {
		t.Errorf("got %+v", first)
	}
	if b := s.Headers[1]; b.Key != "\ufffd" || b.Value != nil || !slices.Equal(b.ValueBytes, []byte{0xff}) {
		t.Errorf("got %+v", b)
	}
	if n, e := s.Headers[2], s.Headers[3]; n.Bytes != -1 || n.Value != nil || e.Bytes != 0 || e.Value == nil {
		t.Errorf("got %+v and %+v", n, e)
	}
	for _, h := range stored(f, false).Headers {
		if h.Value != nil || h.ValueBytes != nil {
			t.Errorf("a value was not asked for: %+v", h)
		}
	}
}
