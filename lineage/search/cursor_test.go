package search

import (
	"errors"
	"testing"

	"github.com/waybillhq/waybill/internal/ledger"
)

func TestCursorOfAnotherSearch(t *testing.T) {
	q := Query{Cluster: "us", Topic: "orders", Key: []byte("a"), Partition: -1}
	id := ledger.TopicID{1}
	cursor := place{search: q.name(), topicID: id, partition: 3, next: 5, end: 9}.String()
	for _, c := range []struct {
		name       string
		change     func(*Query)
		id         ledger.TopicID
		partitions []int32
	}{
		{"another key", func(q *Query) { q.Key = []byte("b") }, id, []int32{3}},
		{"no key", func(q *Query) { q.Key, q.TraceID = nil, [16]byte{1} }, id, []int32{3}},
		{"another topic", func(q *Query) { q.Topic = "bills" }, id, []int32{3}},
		{"another life", func(*Query) {}, ledger.TopicID{2}, []int32{3}},
		{"another partition", func(*Query) {}, id, []int32{0, 1, 2}},
		{"nonsense", func(q *Query) { q.Cursor = "nonsense" }, id, []int32{3}},
	} {
		changed := q
		changed.Cursor = cursor
		c.change(&changed)
		if _, _, err := changed.goOn(c.id, c.partitions); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	q.Cursor = cursor
	at, rest, err := q.goOn(id, []int32{2, 3, 4})
	if err != nil || at.next != 5 || at.end != 9 || len(rest) != 2 || rest[0] != 3 {
		t.Errorf("got %+v %v %v", at, rest, err)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(place{search: [8]byte{1}, topicID: ledger.TopicID{2}, partition: 3, next: 4, end: 5}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCursor(s)
		if err != nil {
			return
		}
		if p.partition < 0 || p.next < 0 || p.end < p.next {
			t.Errorf("%q: got %+v", s, p)
		}
		if again, err := parseCursor(p.String()); err != nil || again != p {
			t.Errorf("%q: got %+v, again %+v %v", s, p, again, err)
		}
	})
}
