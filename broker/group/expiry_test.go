package group

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.OffsetsRetention = time.Hour; c.CleanupInterval = time.Minute })
		if err := r.commit("simple", at(0, 1)); err != nil {
			t.Fatal(err)
		}
		j := r.stable("live")
		err := r.Commit(t.Context(), CommitRequest{Group: "live", MemberID: j.MemberID, Generation: 1, Offsets: []Offset{at(0, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		for range 13 {
			time.Sleep(5 * time.Second)
			if err := r.Heartbeat(t.Context(), "live", Heartbeat{MemberID: j.MemberID, Generation: 1}); err != nil {
				t.Fatal(err)
			}
		}
		// "live" ends about a minute from now, and its hour begins there.
		time.Sleep(59*time.Minute + 30*time.Second)
		r.wantOffset("simple", -1)
		r.wantOffset("live", 1)
		r.restart()
		r.wantOffset("live", 1)
		time.Sleep(5 * time.Minute)
		r.wantOffset("live", -1)
		r.restart()
		if all, err := r.List(t.Context()); err != nil || len(all) != 0 {
			t.Errorf("groups left: %v, %v", all, err)
		}
	})
}

// TestOffsetsOfALiveGroupExpireByWhatItReads: what its members subscribe to stays
// however long nothing is committed; if that is not known, all stays.
func TestOffsetsOfALiveGroupExpireByWhatItReads(t *testing.T) {
	subscription := (&kmsg.ConsumerMemberMetadata{Topics: []string{"t"}}).AppendTo(nil)
	regex := "t+"
	for name, c := range map[string]struct {
		join func(r *rig) (beat func() error)
		want []string // topics of which the offsets are kept
	}{
		"classic":                         {liveClassic("consumer", subscription), []string{"t"}},
		"classic, no consumer's protocol": {liveClassic("connect", []byte("meta")), []string{"t", "u"}},
		"classic, not understood":         {liveClassic("consumer", []byte("meta")), []string{"t", "u"}},
		"consumer, by name":               {liveConsumer(wants("t")), []string{"t"}},
		"consumer, by regular expression": {liveConsumer(matches(regex)), []string{"t"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(c *Config) { c.OffsetsRetention, c.CleanupInterval = time.Hour, time.Minute })
				r.topics.set("u", 1)
				if err := r.commit("g", Offset{TopicPartition{"u", 0}, 3, -1, ""}, at(0, 5)); err != nil {
					t.Fatal(err)
				}
				beat := c.join(r)
				for range 3 * 60 * 12 { // three hours
					time.Sleep(5 * time.Second)
					if err := beat(); err != nil {
						t.Fatal(err)
					}
				}
				got, err := r.Offsets(t.Context(), FetchRequest{Group: "g", MemberEpoch: -1})
				if err != nil {
					t.Fatal(err)
				}
				kept := []string{}
				for _, o := range got {
					kept = append(kept, o.Topic)
				}
				if slices.Sort(kept); !slices.Equal(kept, c.want) {
					t.Errorf("offsets of %v are kept, want %v", kept, c.want)
				}
			})
		})
	}
}

func liveClassic(kind string, metadata []byte) func(*rig) func() error {
	return func(r *rig) func() error {
		j := joining("")
		j.ProtocolType, j.Protocols[0].Metadata = kind, metadata
		joined, err := r.Join(r.t.Context(), "g", j)
		if err != nil || joined.Err != nil {
			r.t.Fatalf("join: %v, %v", err, joined.Err)
		}
		if _, err := r.Sync(r.t.Context(), "g", Sync{MemberID: joined.MemberID, Generation: joined.Generation}); err != nil {
			r.t.Fatalf("sync: %v", err)
		}
		return func() error {
			return r.Heartbeat(r.t.Context(), "g", Heartbeat{MemberID: joined.MemberID, Generation: joined.Generation})
		}
	}
}

func liveConsumer(subscribes func(*ConsumerHeartbeat)) func(*rig) func() error {
	return func(r *rig) func() error {
		joined, err := r.beat("g", "A", 0, func(h *ConsumerHeartbeat) { h.SubscribedTopicNames = nil }, subscribes)
		if err != nil {
			r.t.Fatal(err)
		}
		return func() error {
			_, err := r.beat("g", "A", joined.MemberEpoch)
			return err
		}
	}
}
