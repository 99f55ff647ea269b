package group

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestWhatAGroupHoldsIsBounded: clients that join and leave at once, and ask for ids
// that they do not come back with, are held for their sessions, and no more than so
// many and so much of them.
func TestWhatAGroupHoldsIsBounded(t *testing.T) {
	const size = 1000
	now := time.UnixMilli(1_700_000_000_000)
	rules := Rules{InitialDelay: time.Second, MaxMembers: 500, MaxBytes: 10 * size}
	join := func(i int, require bool, bytes int) Join {
		return Join{
			NewMemberID: fmt.Sprintf("m%d", i), SessionTimeout: time.Minute, RebalanceTimeout: time.Minute, RequireMemberID: require,
			ProtocolType: "consumer", Protocols: []Protocol{{"range", make([]byte, bytes)}},
		}
	}
	outcome := func(effects []Effect) (err error) {
		for _, f := range effects {
			if j, ok := f.(Joined); ok {
				err = j.Err
			}
		}
		return err
	}
	for _, c := range []struct {
		what    string
		require bool
		bytes   int
		most    int
	}{
		{"members that say much", false, size, heldFactor * 10},
		{"ids that nobody comes back with", true, 1, 500},
	} {
		g := New("g", rules, now)
		taken := 0
		for i := range 2 * c.most {
			err := outcome(g.Step(now, join(i, c.require, c.bytes)))
			switch {
			case err == nil || errors.Is(err, kerr.MemberIDRequired):
				taken++
			case !errors.Is(err, kerr.GroupMaxSizeReached):
				t.Fatalf("%s: %v", c.what, err)
			}
		}
		if taken > c.most || taken < c.most*9/10 {
			t.Errorf("%s: %d were taken, want about %d", c.what, taken, c.most)
		}
	}
	// Who is a member is none too many.
	g := New("g", rules, now)
	first := join(0, false, size)
	g.Step(now, first)
	for i := range 200 {
		g.Step(now, join(1+i, false, size))
	}
	first.MemberID = "m0"
	if err := outcome(g.Step(now, first)); errors.Is(err, kerr.GroupMaxSizeReached) {
		t.Errorf("a member that joins again: %v", err)
	}
	g.Step(now.Add(time.Hour), Tick{})
	if err := outcome(g.Step(now.Add(time.Hour), join(999, false, size))); err != nil {
		t.Errorf("when they have gone: %v", err)
	}
}

// TestWhatAConsumerGroupHoldsIsBounded is the same of the consumer protocol, also of
// members that begin small.
func TestWhatAConsumerGroupHoldsIsBounded(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	rules := ConsumerRules{SessionTimeout: time.Minute, MaxMembers: 500, MaxBytes: 10_000}
	names := []string{"x"}
	for i := range 400 {
		names = append(names, fmt.Sprintf("topic-%04d", i))
	}
	g := NewConsumer("g", rules, now)
	topics := newCatalog(nil)
	beat := func(id string, epoch int32, names []string) (answer ConsumerBeaten) {
		for _, f := range g.Step(now, ConsumerHeartbeat{MemberID: id, MemberEpoch: epoch, RebalanceTimeout: time.Minute, SubscribedTopicNames: names, Topics: topics}) {
			if b, ok := f.(ConsumerBeaten); ok {
				answer = b
			}
		}
		return answer
	}
	taken := 0
	for i := range 100 {
		id := fmt.Sprintf("m%d", i)
		small := beat(id, 0, names[:1])
		if small.Err != nil {
			continue
		}
		if large := beat(id, small.MemberEpoch, names); large.Err == nil {
			taken++
		} else if !errors.Is(large.Err, kerr.GroupMaxSizeReached) {
			t.Fatal(large.Err)
		}
	}
	held := 0
	for _, m := range g.members {
		held += m.size()
	}
	if held > heldFactor*rules.MaxBytes || taken < 10 {
		t.Errorf("%d bytes of %d large members are held, want at most %d", held, taken, heldFactor*rules.MaxBytes)
	}
}
