package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func topicN(n int) (id TopicID) { id[0] = byte(n); return id }

// TestAssignors holds both assignors, over random groups that change, against
// what they promise: every partition that somebody wants has one member, who
// wants it; a group that is assigned again stays as it is; and the numbers are
// even.
func TestAssignors(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		assignor := Assignors()[seed%2]
		topics := map[TopicID]int32{}
		for n := range 1 + rng.IntN(4) {
			topics[topicN(n)] = int32(rng.IntN(9))
		}
		same := rng.IntN(2) == 0
		var members []*candidate
		for n := range 1 + rng.IntN(6) {
			members = append(members, &candidate{id: fmt.Sprint("m", n), topics: some(rng, topics, same)})
		}
		var had map[string]Assignment
		for range 4 {
			for _, c := range members {
				c.had = had[c.id]
			}
			got := assignPartitions(assignor, members, topics)
			checkAssignment(t, assignor, members, topics, got, same)
			rng.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
			for _, c := range members {
				c.had = got[c.id]
			}
			if again := assignPartitions(assignor, members, topics); !maps.EqualFunc(got, again, Assignment.equal) {
				t.Fatalf("seed %d, %s: %v became %v, and nothing had changed", seed, assignor, got, again)
			}
			had = got
			switch rng.IntN(3) {
			case 0:
				members = append(members, &candidate{id: fmt.Sprint(rng.Uint64()), topics: some(rng, topics, same)})
			case 1:
				if len(members) > 1 {
					members = members[1:]
				}
			case 2:
				topics[topicN(0)] += 2
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func some(rng *rand.Rand, topics map[TopicID]int32, all bool) []TopicID {
	var ids []TopicID
	for n := range len(topics) {
		if all || rng.IntN(2) == 0 {
			ids = append(ids, topicN(n))
		}
	}
	return ids
}

func checkAssignment(t *testing.T, assignor string, members []*candidate, topics map[TopicID]int32, got map[string]Assignment, same bool) {
	t.Helper()
	owners := map[TopicID]map[int32]string{}
	wanted := map[TopicID]int{}
	for _, c := range members {
		for _, id := range c.topics {
			wanted[id]++
		}
		for id, ps := range got[c.id] {
			if !slices.Contains(c.topics, id) {
				t.Errorf("%s got topic %d, which it does not want", c.id, id[0])
			}
			if owners[id] == nil {
				owners[id] = map[int32]string{}
			}
			for _, p := range ps {
				if o := owners[id][p]; o != "" || p < 0 || p >= topics[id] {
					t.Errorf("partition %d of %d is %s's and %q's", p, topics[id], c.id, o)
				}
				owners[id][p] = c.id
			}
		}
	}
	for id, n := range topics {
		if wanted[id] > 0 && len(owners[id]) != int(n) {
			t.Errorf("topic %d: %d of %d partitions are given", id[0], len(owners[id]), n)
		}
	}
	for _, a := range members {
		for _, b := range members {
			switch {
			case assignor == Uniform && same && got[a.id].size() > got[b.id].size()+1:
				t.Errorf("%s has %d and %s has %d", a.id, got[a.id].size(), b.id, got[b.id].size())
			case assignor == Uniform:
				// What b could have of a's would not make it more even.
				for id := range got[a.id] {
					if slices.Contains(b.topics, id) && got[a.id].size() > got[b.id].size()+1 {
						t.Errorf("%s has %d and %s, which could have some, %d", a.id, got[a.id].size(), b.id, got[b.id].size())
					}
				}
			default:
				for id, ps := range got[a.id] {
					if slices.Contains(b.topics, id) && len(ps) > len(got[b.id][id])+1 {
						t.Errorf("of topic %d %s has %d and %s %d", id[0], a.id, len(ps), b.id, len(got[b.id][id]))
					}
				}
			}
		}
	}
}

func TestUniformMovesNoMoreThanItMust(t *testing.T) {
	topics := map[TopicID]int32{topicN(0): 12}
	member := func(id string, had ...int32) *candidate {
		return &candidate{id: id, topics: []TopicID{topicN(0)}, had: AssignmentOf(map[TopicID][]int32{topicN(0): had})}
	}
	got := assignPartitions(Uniform, []*candidate{member("a", 0, 2, 4, 6, 8, 10), member("b", 1, 3, 5, 7, 9, 11), member("c")}, topics)
	for id, want := range map[string][]int32{"a": {0, 2, 4, 6}, "b": {1, 3, 5, 7}, "c": {8, 9, 10, 11}} {
		if !slices.Equal(got[id][topicN(0)], want) {
			t.Errorf("%s: got %v, want %v", id, got[id], want)
		}
	}
}

func TestRangeGivesTheSameOfTopicsOfOneSize(t *testing.T) {
	topics := map[TopicID]int32{topicN(0): 5, topicN(1): 5}
	ids := []TopicID{topicN(0), topicN(1)}
	got := assignPartitions(Range, []*candidate{{id: "b", topics: ids}, {id: "a", topics: ids}, {id: "z", instanceID: "i", topics: ids}}, topics)
	for id, want := range map[string][]int32{"z": {0, 1}, "a": {2, 3}, "b": {4}} {
		for _, topic := range ids {
			if !slices.Equal(got[id][topic], want) {
				t.Errorf("%s: got %v of topic %d, want %v", id, got[id][topic], topic[0], want)
			}
		}
	}
}

// TestRangeKeepsTopicsOfOneSizeTogether has topics and members come one by one, so
// that what a member had of one topic is not what it had of another.
func TestRangeKeepsTopicsOfOneSizeTogether(t *testing.T) {
	topics := map[TopicID]int32{topicN(0): 7}
	ids := []TopicID{topicN(0)}
	var members []*candidate
	for n, name := range []string{"d", "b", "e", "a", "c"} {
		if n == 2 {
			topics[topicN(1)] = 7
			ids = append(ids, topicN(1))
		}
		members = append(members, &candidate{id: name})
		for _, c := range members {
			c.topics = ids
		}
		got := assignPartitions(Range, members, topics)
		for _, c := range members {
			if c.had = got[c.id]; n >= 2 && !slices.Equal(c.had[topicN(0)], c.had[topicN(1)]) {
				t.Errorf("of %d members %s got %v of one topic and %v of the other", n+1, c.id, c.had[topicN(0)], c.had[topicN(1)])
			}
		}
	}
}

func BenchmarkUniform(b *testing.B) {
	topics := map[TopicID]int32{topicN(0): 10_000}
	var members []*candidate
	for n := range 1000 {
		members = append(members, &candidate{id: fmt.Sprint(n), topics: []TopicID{topicN(0)}})
	}
	for b.Loop() {
		assignPartitions(Uniform, members, topics)
	}
}
