package cluster

import (
	"bytes"
	"encoding/json"
	"testing"
)

// Whatever a snapshot holds, a node either does not take it or goes on with it, and
// writes it as it read it.
func FuzzDecodeState(f *testing.F) {
	for _, s := range []*script{newScript(f), newScript(f)} {
		b, err := s.state.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		s.node("a")
		s.flow("orders", "a", map[string]int32{"t": 2})
		s.place("a", copyOf("orders", "t", 0))
		if b, err = s.state.encode(); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			return
		}
		first, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeState(first)
		if err != nil {
			t.Fatalf("our own encoding: %v", err)
		}
		if second, err := again.encode(); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s, %v", first, second, err)
		}
		for _, c := range []Command{
			&BeginIncarnation{Node: "a"},
			&SetTopics{Flow: "orders", Epoch: 4, Put: []TopicSpec{{Source: "t", Partitions: 1}}},
			&ApplyObjects{Put: []PutObject{{Key: "ReplicationFlow/f", Spec: json.RawMessage(`{}`)}}, Delete: []string{"ReplicationFlow/orders"}},
			&RemoveMember{Name: "a"},
		} {
			cmd, err := encodeCommand(c)
			if err != nil {
				t.Fatal(err)
			}
			_, _, _ = (machine{}).Apply(s, 100, cmd) // may refuse, must not panic
		}
	})
}
