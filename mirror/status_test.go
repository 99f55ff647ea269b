package mirror

import (
	"testing"
	"time"
)

func TestLagIsMeasuredByWhenAnEndWasSeen(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var l lagClock
	if got := l.lag(at(0)); got != 0 {
		t.Errorf("nothing seen: %v", got)
	}
	l.observe(100, at(0))
	l.observe(100, at(3)) // the same end again is no news
	l.observe(200, at(5))
	if got := l.lag(at(7)); got != 7*time.Second {
		t.Errorf("behind both: %v, want 7s", got)
	}
	l.reach(150)
	if got := l.lag(at(7)); got != 2*time.Second {
		t.Errorf("behind the second: %v, want 2s", got)
	}
	l.reach(200)
	if got := l.lag(at(7)); got != 0 {
		t.Errorf("caught up: %v", got)
	}
}

func TestLagOfALongBacklogIsBounded(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var l lagClock
	for i := range 100_000 {
		l.observe(int64(i+1), start.Add(time.Duration(i)*time.Second))
	}
	if len(l.seen) > maxEnds {
		t.Fatalf("%d ends are remembered", len(l.seen))
	}
	now := start.Add(100_000 * time.Second)
	if got := l.lag(now); got != 100_000*time.Second {
		t.Errorf("lag %v, want that of the first end", got)
	}
	for position := int64(1000); position < 100_000; position += 1000 {
		l.reach(position)
		exact := 100_000*time.Second - time.Duration(position)*time.Second
		if got := l.lag(now); got < exact || got > exact+100_000*time.Second/30 {
			t.Fatalf("at %d: lag %v, exact is %v", position, got, exact)
		}
	}
}

func TestMeterForgetsAfterTenSeconds(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var m meter
	for s := range 30 {
		m.add(100, start.Add(time.Duration(s)*time.Second))
	}
	if got := m.perSecond(start.Add(29 * time.Second)); got != 100 {
		t.Errorf("steady: %v a second, want 100", got)
	}
	if got := m.perSecond(start.Add(34 * time.Second)); got != 50 {
		t.Errorf("after five idle seconds: %v, want 50", got)
	}
	if got := m.perSecond(start.Add(time.Hour)); got != 0 {
		t.Errorf("after an hour: %v", got)
	}
}

func TestBackoffGrowsAndStays(t *testing.T) {
	b := backoff{min: 10 * time.Millisecond, max: time.Second}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		want *= time.Millisecond
		if got := b.next(); got < want-want/8 || got > want+want/8 {
			t.Errorf("try %d waits %v, want about %v", i, got, want)
		}
	}
	b.n = 1000
	if got := b.next(); got > 2*time.Second {
		t.Errorf("after a long time: %v", got)
	}
}

func TestLaneNumbersAreUsedAgain(t *testing.T) {
	var n numbers
	if a, b, c := n.take("x"), n.take("x"), n.take("y"); a != 0 || b != 1 || c != 0 {
		t.Errorf("got %d, %d, %d", a, b, c)
	}
	n.give("x", 0)
	if got := n.take("x"); got != 0 {
		t.Errorf("got %d, want the one given back", got)
	}
}
