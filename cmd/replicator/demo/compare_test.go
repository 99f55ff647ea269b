package demo

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func logOf(n int) Log {
	l := Log{}
	for i := range n {
		p := int32(i % 3)
		l[p] = append(l[p], &kgo.Record{
			Topic: "quakes", Partition: p, Offset: int64(len(l[p])), Timestamp: time.UnixMilli(1517443200000 + int64(i)),
			Key: fmt.Appendf(nil, "k%d", i%5), Value: fmt.Appendf(nil, "v%d", i), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("1")}},
		})
	}
	return l
}

func TestCompareFindsEveryDamage(t *testing.T) {
	cases := []struct {
		name   string
		damage func(Log)
		want   Verdict
	}{
		{"nothing", func(Log) {}, Verdict{}},
		{"drop", func(l Log) { l[1] = append(l[1][:4:4], l[1][5:]...) }, Verdict{Missing: 1}},
		{"double", func(l Log) { l[1] = append(l[1], l[1][7]) }, Verdict{Duplicated: 1}},
		{"swap", func(l Log) { l[2][3], l[2][4] = l[2][4], l[2][3] }, Verdict{Reordered: 1}},
		{"flip a bit of a value", func(l Log) { l[0][5].Value[0] ^= 1 }, Verdict{Mismatched: 1}},
		{"flip a bit of a key", func(l Log) { l[0][5].Key[0] ^= 1 }, Verdict{Mismatched: 1}},
		{"null for empty", func(l Log) { l[0][5].Key = nil }, Verdict{Mismatched: 1}},
		{"another header", func(l Log) { l[0][0].Headers[0].Value = nil }, Verdict{Mismatched: 1}},
		{"another time", func(l Log) { l[0][0].Timestamp = l[0][0].Timestamp.Add(time.Millisecond) }, Verdict{Mismatched: 1}},
		{"phantom", func(l Log) { l[2] = append(l[2], &kgo.Record{Topic: "quakes", Value: []byte("ghost")}) }, Verdict{Phantom: 1}},
		{"partition lost", func(l Log) { delete(l, 1) }, Verdict{Missing: 30}},
		{"partition invented", func(l Log) { l[9] = l[0][:1] }, Verdict{Phantom: 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			source, destination := logOf(90), logOf(90)
			c.damage(destination)
			got := Compare(source, destination)
			c.want.Compared = 90
			if got.First == "" != got.OK() {
				t.Errorf("ok is %v, first difference %q", got.OK(), got.First)
			}
			got.First = ""
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestShippedEventsAreWhatTheDemoSays(t *testing.T) {
	events, err := Input{Key: DefaultKey, Time: DefaultTime}.Load()
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, e := range events {
		keys[string(e.Key)] = true
	}
	if len(events) != 1707 || len(keys) != 12 {
		t.Errorf("%d events with %d keys, want 1707 with 12", len(events), len(keys))
	}
}
