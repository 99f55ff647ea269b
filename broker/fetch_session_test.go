package broker

import (
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sessionRequest is a Fetch of partitions of topic 1, by id.
func sessionRequest(id, epoch int32, partitions ...int32) *kmsg.FetchRequest {
	q := kmsg.NewPtrFetchRequest()
	q.Version, q.SessionID, q.SessionEpoch = 13, id, epoch
	if len(partitions) == 0 {
		return q
	}
	t := kmsg.NewFetchRequestTopic()
	t.TopicID = [16]byte{1}
	for _, n := range partitions {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = n, int64(n), 100
		t.Partitions = append(t.Partitions, p)
	}
	q.Topics = append(q.Topics, t)
	return q
}

func forgetting(q *kmsg.FetchRequest, partitions ...int32) *kmsg.FetchRequest {
	f := kmsg.NewFetchRequestForgottenTopic()
	f.TopicID, f.Partitions = [16]byte{1}, partitions
	q.ForgottenTopics = append(q.ForgottenTopics, f)
	return q
}

func partitionsOf(parts []fetchPart) (list []int32) {
	for _, p := range parts {
		list = append(list, p.key.partition)
	}
	return list
}

// exchangeSession is a request and its answer, in which found says what became of
// the partitions. It returns the session's id and the partitions that the answer
// names.
func exchangeSession(t *testing.T, c *sessionCache, q *kmsg.FetchRequest, now time.Time, found func(p *fetchPart)) (id int32, told []int32) {
	t.Helper()
	x, failed := c.begin(q, "User:a", now)
	if failed != nil {
		t.Fatalf("session %d, epoch %d: %v", q.SessionID, q.SessionEpoch, failed)
	}
	for i := range x.parts {
		if found != nil {
			found(&x.parts[i])
		}
	}
	id, failed = x.finish(now)
	if failed != nil {
		t.Fatalf("finish session %d, epoch %d: %v", q.SessionID, q.SessionEpoch, failed)
	}
	for _, p := range x.parts {
		if p.told {
			told = append(told, p.key.partition)
		}
	}
	return id, told
}

func TestAnIncrementalAnswerNamesWhatIsNews(t *testing.T) {
	c, now := newSessionCache(10), time.Now()
	id, told := exchangeSession(t, c, sessionRequest(0, 0, 0, 1, 2, 3), now, nil)
	if id == 0 || !slices.Equal(told, []int32{0, 1, 2, 3}) {
		t.Fatalf("session %d begins with %v", id, told)
	}
	epoch := int32(0)
	next := func(q *kmsg.FetchRequest, found func(p *fetchPart)) []int32 {
		t.Helper()
		epoch++
		q.SessionID, q.SessionEpoch = id, epoch
		got, told := exchangeSession(t, c, q, now, found)
		if got != id {
			t.Fatalf("session %d answers as %d", id, got)
		}
		return told
	}
	on := func(n int32, change func(p *fetchPart)) func(p *fetchPart) {
		return func(p *fetchPart) {
			if p.key.partition == n {
				change(p)
			}
		}
	}
	steps := []struct {
		what  string
		q     *kmsg.FetchRequest
		found func(p *fetchPart)
		want  []int32
	}{
		{"nothing", sessionRequest(0, 0), nil, nil},
		{"records", sessionRequest(0, 0), on(1, func(p *fetchPart) { p.size = 5 }), []int32{1}},
		{"a high watermark", sessionRequest(0, 0), on(2, func(p *fetchPart) { p.highWatermark = 7 }), []int32{2}},
		{"that it went back to 0", sessionRequest(0, 0), nil, []int32{2}},
		{"a log start", sessionRequest(0, 0), on(0, func(p *fetchPart) { p.logStart = 3 }), []int32{0}},
		{"an error", sessionRequest(0, 0), on(3, func(p *fetchPart) { p.err, p.logStart = kerr.UnknownTopicID, 3 }), []int32{0, 3}},
		{"the error again", sessionRequest(0, 0), on(3, func(p *fetchPart) { p.err = kerr.UnknownTopicID }), []int32{3}},
		{"that it is over", sessionRequest(0, 0), nil, []int32{3}},
		{"nothing more", sessionRequest(0, 0), nil, nil},
		{"a partition that is new", sessionRequest(0, 0, 9), nil, []int32{9}},
		{"a diverging epoch", sessionRequest(0, 0), on(9, func(p *fetchPart) { p.diverging = &kmsg.FetchResponseTopicPartitionDivergingEpoch{} }), []int32{9}},
		{"one that was forgotten", forgetting(sessionRequest(0, 0), 9), nil, nil},
	}
	for _, s := range steps {
		if got := next(s.q, s.found); !slices.Equal(got, s.want) {
			t.Errorf("%s: the answer names %v, want %v", s.what, got, s.want)
		}
	}
}

func TestAPartitionThatHadRecordsComesLast(t *testing.T) {
	c, now := newSessionCache(10), time.Now()
	id, _ := exchangeSession(t, c, sessionRequest(0, 0, 0, 1, 2), now, nil)
	for epoch, want := range [][]int32{{0, 1, 2}, {1, 2, 0}, {2, 0, 1}, {0, 1, 2}} {
		x, failed := c.begin(sessionRequest(id, int32(epoch+1)), "User:a", now)
		if failed != nil {
			t.Fatal(failed)
		}
		if got := partitionsOf(x.parts); !slices.Equal(got, want) {
			t.Errorf("request %d reads %v, want %v", epoch+1, got, want)
		}
		x.parts[0].size = 1 // the first took all
		if _, failed := x.finish(now); failed != nil {
			t.Fatal(failed)
		}
	}
}

func TestASessionTakesTheLastWordOfAPartition(t *testing.T) {
	c, now := newSessionCache(10), time.Now()
	id, _ := exchangeSession(t, c, sessionRequest(0, 0, 0, 1, 0), now, nil)
	q := sessionRequest(id, 1, 1)
	q.Topics[0].Partitions[0].FetchOffset = 50
	x, failed := c.begin(q, "User:a", now)
	if failed != nil || len(x.parts) != 2 || x.parts[0].want.offset != 0 || x.parts[1].want.offset != 50 {
		t.Errorf("reads %+v, %v", x.parts, failed)
	}
}

func TestSessionErrors(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		change    func(q *kmsg.FetchRequest)
		principal string
		want      *kerr.Error
	}{
		"as expected":              {func(*kmsg.FetchRequest) {}, "User:a", nil},
		"another id":               {func(q *kmsg.FetchRequest) { q.SessionID++ }, "User:a", kerr.FetchSessionIDNotFound},
		"id 0":                     {func(q *kmsg.FetchRequest) { q.SessionID = 0 }, "User:a", kerr.FetchSessionIDNotFound},
		"somebody else":            {func(*kmsg.FetchRequest) {}, "User:b", kerr.FetchSessionIDNotFound},
		"an epoch that was":        {func(q *kmsg.FetchRequest) { q.SessionEpoch = 1 }, "User:a", kerr.InvalidFetchSessionEpoch},
		"an epoch of the future":   {func(q *kmsg.FetchRequest) { q.SessionEpoch = 3 }, "User:a", kerr.InvalidFetchSessionEpoch},
		"names in place of ids":    {func(q *kmsg.FetchRequest) { q.Version = 12 }, "User:a", kerr.FetchSessionTopicIDError},
		"an end":                   {func(q *kmsg.FetchRequest) { q.SessionEpoch = -1 }, "User:a", nil},
		"a beginning in its place": {func(q *kmsg.FetchRequest) { q.SessionEpoch = 0 }, "User:a", nil},
	} {
		cache := newSessionCache(10)
		id, _ := exchangeSession(t, cache, sessionRequest(0, 0, 0), now, nil)
		exchangeSession(t, cache, sessionRequest(id, 1), now, nil)
		q := sessionRequest(id, 2)
		c.change(q)
		if _, failed := cache.begin(q, c.principal, now); failed != c.want {
			t.Errorf("%s: %v, want %v", name, failed, c.want)
		}
		if full := q.SessionEpoch <= 0; full != (cache.byID[id] == nil) {
			t.Errorf("%s: the session is there: %v", name, full)
		}
	}
}

func TestASessionThatWasUsedMeanwhileAnswersNothing(t *testing.T) {
	c, now := newSessionCache(10), time.Now()
	id, _ := exchangeSession(t, c, sessionRequest(0, 0, 0), now, nil)
	parked, _ := c.begin(sessionRequest(id, 1), "User:a", now)
	if _, failed := c.begin(sessionRequest(id, 2), "User:a", now); failed != nil {
		t.Fatal(failed)
	}
	if _, failed := parked.finish(now); failed != kerr.InvalidFetchSessionEpoch {
		t.Errorf("the first of two: %v", failed)
	}
}

func TestASessionOfNothingEnds(t *testing.T) {
	c, now := newSessionCache(10), time.Now()
	if id, _ := exchangeSession(t, c, sessionRequest(0, 0), now, nil); id != 0 {
		t.Errorf("a session %d of no partitions", id)
	}
	id, _ := exchangeSession(t, c, sessionRequest(0, 0, 0, 1), now, nil)
	if id, _ := exchangeSession(t, c, forgetting(sessionRequest(id, 1), 0, 1), now, nil); id != 0 {
		t.Errorf("session %d goes on with no partitions", id)
	}
	if len(c.byID) != 0 || c.held != 0 {
		t.Errorf("%d sessions, %d partitions are left", len(c.byID), c.held)
	}
}

func TestWhichSessionMakesRoom(t *testing.T) {
	start := time.Now()
	for name, c := range map[string]struct {
		later time.Duration
		used  bool // the first session is used again just before
		size  int  // of the newcomer
		gone  int  // which session goes: 0 is the first; -1 none, and the newcomer gets none
	}{
		"all are young":                       {time.Minute, false, 9, -1},
		"the idlest goes":                     {3 * time.Minute, false, 1, 0},
		"a smaller one that is old goes":      {3 * time.Minute, true, 5, 1},
		"exactly two minutes are not over it": {sessionIdle, false, 9, -1},
	} {
		cache := newSessionCache(2)
		var ids []int32
		for i, partitions := range [][]int32{{0, 1, 2}, {0}} {
			id, _ := exchangeSession(t, cache, sessionRequest(0, 0, partitions...), start.Add(time.Duration(i)), nil)
			ids = append(ids, id)
		}
		now := start.Add(c.later)
		if c.used {
			exchangeSession(t, cache, sessionRequest(ids[0], 1), now, nil)
		}
		var partitions []int32
		for i := range c.size {
			partitions = append(partitions, int32(i))
		}
		id, _ := exchangeSession(t, cache, sessionRequest(0, 0, partitions...), now, nil)
		if (id == 0) != (c.gone < 0) {
			t.Errorf("%s: the newcomer is %d", name, id)
		}
		for i := range ids {
			if (cache.byID[ids[i]] == nil) != (i == c.gone) {
				t.Errorf("%s: session %d is there: %v", name, i, cache.byID[ids[i]] != nil)
			}
		}
		held := 0
		for _, s := range cache.byID {
			held += len(s.parts)
		}
		if held != cache.held || len(cache.byID) > 2 {
			t.Errorf("%s: %d partitions are counted, want %d", name, cache.held, held)
		}
	}
}

func TestSessionsThatAreInUseAreNotDrivenOut(t *testing.T) {
	cache, start := newSessionCache(1), time.Now()
	id, _ := exchangeSession(t, cache, sessionRequest(0, 0, 0, 1), start, nil)
	for i := range 10 {
		now := start.Add(time.Duration(i) * time.Minute)
		exchangeSession(t, cache, sessionRequest(id, int32(i+1)), now, nil)
		if other, _ := exchangeSession(t, cache, sessionRequest(0, 0, 5, 6), now, nil); other != 0 {
			t.Fatalf("a client that never uses its sessions got %d", other)
		}
	}
}

func TestPartitionsOfAllSessionsAreBounded(t *testing.T) {
	cache, now := newSessionCache(10), time.Now()
	cache.held = maxSessionPartitions - 1
	if id, _ := exchangeSession(t, cache, sessionRequest(0, 0, 0, 1), now, nil); id != 0 {
		t.Error("a session beyond the bound")
	}
	id, _ := exchangeSession(t, cache, sessionRequest(0, 0, 0), now, nil)
	if _, failed := cache.begin(sessionRequest(id, 1, 1, 2, 3), "User:a", now); failed != kerr.FetchSessionIDNotFound || cache.byID[id] != nil {
		t.Errorf("a session grew beyond the bound: %v", failed)
	}
}

func TestSessionEpochsWrap(t *testing.T) {
	if got := nextSessionEpoch(1<<31 - 1); got != 1 {
		t.Errorf("after the last epoch comes %d", got)
	}
}
