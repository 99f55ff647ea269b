package offsets

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

var dawn = time.Date(2026, 11, 1, 6, 0, 0, 0, time.UTC)

// watching plays looks at one group and one partition, one a second.
type watching struct {
	p      *Progress
	told   map[ProgressKey]Told // what the ledger says
	all    []*ledger.Progress
	now    time.Time
	unsure bool
	away   bool // another watches
}

var billing = ProgressKey{Group: "billing", TopicID: ledger.TopicID{1}}

func newWatching() *watching {
	w := &watching{told: map[ProgressKey]Told{}, now: dawn}
	w.restart()
	return w
}

func (w *watching) restart() {
	ms := NewMaps()
	for _, e := range w.all {
		ms.progress("c", e)
	}
	w.told = ms.AllTold("c")
	w.p = NewProgress(ms.AllTold("c"), func(k ProgressKey) (Told, bool) { t, ok := w.told[k]; return t, ok })
}

// look sees positions a second later.
func (w *watching) look(seen ...SeenPosition) {
	w.now = w.now.Add(time.Second)
	s := Sight{Asked: w.now, Answered: w.now, Seen: seen, Watched: func(string, string) bool { return !w.away }}
	if w.unsure {
		s.Unsure = map[string]bool{"orders": true}
	}
	w.p.Look(s)
}

func (w *watching) at(offset int64, state string) { w.within(offset, state, 0, 1<<40) }

// within sees a position in a log of some extent.
func (w *watching) within(offset int64, state string, start, end int64) {
	w.look(SeenPosition{ProgressKey: billing, Topic: "orders", Offset: offset, Members: hasMembers(state), Start: start, End: end})
}

// write writes what is due.
func (w *watching) write() int {
	due := w.p.Due(w.now, 1000)
	w.all = append(w.all, due...)
	for _, e := range due {
		w.told[ProgressKey{e.Group, e.TopicID, e.Partition}] = Told{Topic: e.Topic, Next: e.Next, Gone: e.Kind == ledger.Gone, At: e.At}
	}
	w.p.Written(w.now)
	return len(due)
}

// said is what is in the ledger: kind, offsets, position, and seconds since dawn.
func (w *watching) said() string {
	var all []string
	for _, e := range w.all {
		life := ""
		if e.TopicID != billing.TopicID {
			life = fmt.Sprintf(" of life %d", e.TopicID[0])
		}
		all = append(all, fmt.Sprintf("%s %d-%d to %d (%g-%g)%s", e.Kind, e.First, e.Last, e.Next, e.FirstAt.Sub(dawn).Seconds(), e.At.Sub(dawn).Seconds(), life))
	}
	return strings.Join(all, "; ")
}

// TestProgress: what follows from how a position goes on.
func TestProgress(t *testing.T) {
	other := billing
	other.TopicID = ledger.TopicID{2}
	flows := func(offset int64) SeenPosition {
		return SeenPosition{ProgressKey: billing, Topic: "orders", Offset: offset, Flow: true, End: 1 << 40}
	}
	cases := []struct {
		name string
		play func(w *watching)
		want string
	}{
		{"the first sight", func(w *watching) { w.at(7, "Stable"); w.write() }, "found 7-7 to 7 (1-1)"},
		{"an idle group writes nothing", func(w *watching) {
			for range 300 {
				w.at(7, "Stable")
				w.write()
			}
		}, "found 7-7 to 7 (1-1)"},
		{"it reads", func(w *watching) { w.at(7, "Stable"); w.at(9, "Stable"); w.write() }, "found 7-7 to 7 (1-1); committed 7-8 to 9 (1-2)"},
		{"it reads and stops", func(w *watching) { w.at(7, "Stable"); w.at(9, "Empty"); w.write() }, "found 7-7 to 7 (1-1); committed 7-8 to 9 (1-2)"},
		{"it is gathered for a minute", func(w *watching) {
			for i := range int64(130) {
				w.at(i, "Stable")
				w.write()
			}
		}, "found 0-0 to 0 (1-1); committed 0-59 to 60 (1-61); committed 60-119 to 120 (61-121)"},
		{
			"it is moved ahead while nobody reads", func(w *watching) {
				w.at(7, "Stable")
				w.at(7, "Empty")
				w.at(7, "Empty")
				w.at(500, "Empty")
				w.write()
			},
			"found 7-7 to 7 (1-1); leapt 7-499 to 500 (3-4)",
		},
		{"it is moved by a broker that lists no states", func(w *watching) { w.at(7, ""); w.at(8, ""); w.write() }, "found 7-7 to 7 (1-1); leapt 7-7 to 8 (1-2)"},
		{
			"it is moved back and reads again", func(w *watching) { w.at(7, "Stable"); w.at(3, "Empty"); w.at(5, "Stable"); w.write() },
			"found 7-7 to 7 (1-1); reset 3-6 to 3 (1-2); committed 3-4 to 5 (2-3)",
		},
		{
			"it is deleted and another has its name", func(w *watching) { w.at(7, "Stable"); w.look(); w.look(); w.at(20, "Stable"); w.write() },
			"found 7-7 to 7 (1-1); gone 7-7 to 7 (1-2); found 20-20 to 20 (4-4)",
		},
		{
			"a restart", func(w *watching) {
				w.at(7, "Stable")
				w.write()
				w.restart()
				w.at(7, "Stable")
				w.at(9, "Stable")
				w.write()
			},
			"found 7-7 to 7 (1-1); committed 7-8 to 9 (2-3)",
		},
		{
			"it moves while nobody watches", func(w *watching) { w.at(7, "Stable"); w.write(); w.restart(); w.at(9, "Stable"); w.write() },
			"found 7-7 to 7 (1-1); leapt 7-8 to 9 (1-2)",
		},
		{
			"it goes while nobody watches", func(w *watching) {
				w.at(7, "Stable")
				w.write()
				w.restart()
				w.look()
				w.write()
				w.restart()
				w.look()
				w.write()
			},
			"found 7-7 to 7 (1-1); gone 7-7 to 7 (1-2)",
		},
		{"another topic has the name", func(w *watching) {
			w.at(7, "Stable")
			w.at(9, "Stable")
			w.unsure = true
			w.look(SeenPosition{ProgressKey: other, Topic: "orders", Offset: 2, Members: true, End: 9})
			w.unsure = false
			w.look(SeenPosition{ProgressKey: other, Topic: "orders", Offset: 4, Members: true, End: 9})
			w.write()
		}, "found 7-7 to 7 (1-1); committed 7-8 to 9 (1-2); gone 9-9 to 9 (2-4); found 4-4 to 4 (4-4) of life 2"},
		{"a flow moves it, and then it reads", func(w *watching) {
			w.at(7, "Empty")
			w.look(flows(10))
			w.look(flows(12))
			w.at(13, "Stable")
			w.write()
		}, "found 7-7 to 7 (1-1); leapt 7-11 to 12 (1-3); committed 12-12 to 13 (3-4)"},
		{"a flow moves it only", func(w *watching) { w.look(flows(10)); w.look(flows(12)); w.write() }, ""},
		{
			"it commits behind the end of the log, and goes on when that is there", func(w *watching) {
				w.within(7, "Stable", 0, 10)
				w.within(10, "Stable", 0, 10)
				w.within(1000, "Stable", 0, 10)
				w.within(1000, "Stable", 0, 1500)
				w.within(1002, "Stable", 0, 1500)
				w.write()
			},
			"found 7-7 to 7 (1-1); committed 7-9 to 10 (1-2); leapt 10-999 to 1000 (2-3); committed 1000-1001 to 1002 (4-5)",
		},
		{
			"the log's start has overtaken it", func(w *watching) {
				w.within(7, "Stable", 0, 10)
				w.within(25, "Stable", 20, 30)
				w.write()
			},
			"found 7-7 to 7 (1-1); leapt 7-19 to 20 (1-2); committed 20-24 to 25 (1-2)",
		},
		{
			"it is moved to the log's start", func(w *watching) { w.within(7, "Stable", 0, 10); w.within(20, "Stable", 20, 30); w.write() },
			"found 7-7 to 7 (1-1); leapt 7-19 to 20 (1-2)",
		},
		{
			"the log's end is not known for a time", func(w *watching) {
				w.within(7, "Stable", 0, 10)
				w.within(9, "Stable", 0, -1)
				w.write()
				w.within(12, "Stable", 0, 20)
				w.now = w.now.Add(time.Hour)
				w.write()
			},
			"found 7-7 to 7 (1-1); committed 7-11 to 12 (1-3)",
		},
		{
			"the cluster is not reached for a time", func(w *watching) {
				w.at(7, "Stable")
				w.now = w.now.Add(maxApart)
				w.at(90, "Stable")
				w.at(91, "Stable")
				w.write()
			},
			"found 7-7 to 7 (1-1); leapt 7-89 to 90 (1-62); committed 90-90 to 91 (62-63)",
		},
		{"another watches for a time", func(w *watching) {
			w.at(7, "Stable")
			w.write()
			w.at(8, "Stable") // is not written: the other tells of it
			w.away = true
			w.at(9, "Stable")
			w.away = false
			w.at(10, "Stable")
			w.now = w.now.Add(time.Hour)
			w.write()
		}, "found 7-7 to 7 (1-1); leapt 7-9 to 10 (1-4)"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWatching()
			c.play(w)
			if got := w.said(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestProgressFailed: of what may or may not have been written nothing is lost, and it is
// not written again if it is there.
func TestProgressFailed(t *testing.T) {
	for _, landed := range []bool{false, true} {
		w := newWatching()
		w.at(7, "Stable")
		w.at(9, "Stable")
		due := w.p.Due(w.now, 10)
		w.at(12, "Stable") // while they are on their way
		if more := w.p.Due(w.now, 10); len(more) > 0 {
			t.Fatalf("the position is on its way twice: %v", more)
		}
		if landed {
			w.all = append(w.all, due...)
			w.told[billing] = Told{Next: 9, At: due[1].At}
		}
		w.p.Failed()
		w.write()
		if got, want := w.said(), "found 7-7 to 7 (1-1); committed 7-8 to 9 (1-2); committed 9-11 to 12 (2-3)"; got != want {
			t.Errorf("landed %v: got %s, want %s", landed, got, want)
		}
	}
}

// TestProgressBounded: a group that is moved about every second has a few entries a minute.
func TestProgressBounded(t *testing.T) {
	w := newWatching()
	for i := range int64(600) {
		w.at(100+i*7%50, "Empty")
		w.write()
	}
	if n := len(w.all); n > 11*maxTurns {
		t.Errorf("%d entries in ten minutes", n)
	}
}

// TestProgressFair: where more is due than can be written, each position has its turn.
func TestProgressFair(t *testing.T) {
	w, written := newWatching(), map[string]int{}
	for i := range int64(9 * 60) {
		var seen []SeenPosition
		for _, group := range []string{"a", "b", "c"} {
			seen = append(seen, SeenPosition{ProgressKey: ProgressKey{Group: group, TopicID: ledger.TopicID{1}}, Topic: "orders", Offset: i, Members: true, End: i})
		}
		w.look(seen...)
		if i%60 == 0 {
			for _, e := range w.p.Due(w.now, 1) {
				written[e.Group]++
			}
			w.p.Written(w.now)
		}
	}
	if written["a"] == 0 || written["b"] == 0 || written["c"] == 0 {
		t.Errorf("entries written: %v", written)
	}
}

// TestProgressForgets: groups that are gone are not kept, nor asked about again and again.
func TestProgressForgets(t *testing.T) {
	w := newWatching()
	for i := range 500 {
		w.look(SeenPosition{ProgressKey: ProgressKey{Group: fmt.Sprint(i), TopicID: ledger.TopicID{1}}, Topic: "orders", End: 9})
		w.write()
	}
	if n := len(w.p.stands); n > 130 {
		t.Errorf("%d positions are kept", n)
	}
	if len(w.all) != 2*500-60 { // the last are gone in less than a minute
		t.Errorf("%d entries", len(w.all))
	}
	if w.restart(); len(w.p.stands) > 61 {
		t.Errorf("%d positions are kept after a restart", len(w.p.stands))
	}
}

// TestProgressModel: whatever groups do, and however often the watch is interrupted, the
// entries end at the positions seen last, each begins where the one before it ended, and
// none says that something was read which no group with members has passed.
func TestProgressModel(t *testing.T) {
	for seed := range seeds(300, 4860) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := newWatching()
		type group struct {
			offset  int64
			there   bool
			members bool
			quiet   bool // without members when it was looked at last
		}
		groups := make([]group, 3)
		read := make([]map[int64]bool, 3) // offsets that a group with members passed
		for i := range read {
			read[i] = map[int64]bool{}
		}
		key := func(i int) ProgressKey { return ProgressKey{Group: fmt.Sprint(i), TopicID: ledger.TopicID{1}} }
		var seen []SeenPosition
		for range 200 {
			look := rng.IntN(10) > 0
			for i := range groups {
				g := &groups[i]
				switch rng.IntN(8) {
				case 0:
					g.there = !g.there
					g.members = g.members && g.there
				case 1:
					g.members = g.there && !g.members
				case 2:
					// One that stops, is moved and starts again between two looks cannot be
					// told from one that reads.
					if g.there && g.quiet && !g.members {
						g.offset, look = rng.Int64N(1000), true
					}
				case 3, 4, 5:
					if g.members {
						for n := rng.Int64N(5); n > 0; n-- {
							read[i][g.offset] = true
							g.offset++
						}
					}
				}
			}
			if look {
				seen = nil
				for i, g := range groups {
					groups[i].quiet = !g.members
					if g.there {
						seen = append(seen, SeenPosition{ProgressKey: key(i), Topic: "orders", Offset: g.offset, Members: g.members, End: 1 << 40})
					}
				}
				w.look(seen...)
			}
			switch rng.IntN(20) {
			case 0:
				w.restart()
			case 1:
				w.p.Due(w.now, 2)
				w.p.Failed()
			}
			w.now = w.now.Add(time.Duration(rng.IntN(10)) * time.Second)
			w.write()
		}
		w.look(seen...)
		w.now = w.now.Add(2 * progressEvery)
		w.write()
		at := map[ProgressKey]*ledger.Progress{}
		for _, e := range w.all {
			k := ProgressKey{e.Group, e.TopicID, e.Partition}
			from, joins := start(e)
			if before := at[k]; joins && (before == nil || before.Kind == ledger.Gone || before.Next != from && e.Kind != ledger.Gone) {
				t.Fatalf("seed %d: %+v does not join on to %+v", seed, e, before)
			}
			at[k] = e
			if e.Kind == ledger.Advanced {
				for o := e.First; o <= e.Last; o++ {
					if i := int(e.Group[0] - '0'); !read[i][o] {
						t.Fatalf("seed %d: %+v: offset %d was never read", seed, e, o)
					}
				}
			}
		}
		for i := range groups {
			n := slices.IndexFunc(seen, func(s SeenPosition) bool { return s.ProgressKey == key(i) })
			switch e := at[key(i)]; {
			case n < 0 && e != nil && e.Kind != ledger.Gone:
				t.Fatalf("seed %d: group %d is gone, the entries end with %+v", seed, i, e)
			case n >= 0 && (e == nil || e.Kind == ledger.Gone || e.Next != seen[n].Offset):
				t.Fatalf("seed %d: group %d is at %d, the entries end with %+v", seed, i, seen[n].Offset, e)
			}
		}
	}
}

// TestWatchOnlyWhereNothingIsRecorded: where the broker records accesses nothing is written
// from commits, nor while a member of the fleet would not understand it.
func TestWatchOnlyWhereNothingIsRecorded(t *testing.T) {
	ms, may := NewMaps(), true
	w := NewWatch(WatchConfig{Cluster: "c", Maps: ms, May: func() bool { return may }})
	ms.Apply(tail.Position{Cluster: "d"}, &ledger.Page{Entries: []ledger.Entry{&ledger.Access{Kind: ledger.Fetched}}})
	ms.Apply(tail.Position{Cluster: "c"}, &ledger.Page{Entries: []ledger.Entry{&ledger.Progress{Kind: ledger.Found}}})
	if !w.tells() {
		t.Error("nothing is written where nothing else is recorded")
	}
	if may = false; w.tells() {
		t.Error("it is written for those who do not know it")
	}
	may = true
	ms.Apply(tail.Position{Cluster: "c", Offset: 1}, &ledger.Page{Entries: []ledger.Entry{&ledger.Access{Kind: ledger.Fetched}}})
	if w.tells() {
		t.Error("it is written beside what the broker records")
	}
}

// TestWhatIsNotListedIsNotGone: a group that a cluster does not list, or of which it does not
// tell the positions, is gone only if it says itself that it has none.
func TestWhatIsNotListedIsNotGone(t *testing.T) {
	s, src, _, _ := newSync(Commit{Offset: 4})
	w := NewWatch(WatchConfig{Cluster: "src", Maps: s.cfg.Maps, May: func() bool { return true }, Watched: func(string, string) bool { return true }})
	w.progress = NewProgress(nil, func(ProgressKey) (Told, bool) { return Told{}, false })
	s.cfg.Watch = w
	now := time.Now()
	look := func(what, want string) {
		t.Helper()
		for range 2 { // the first may not know the topic's life
			_, _ = s.Round(t.Context())
		}
		now = now.Add(2 * progressEvery)
		var got []string
		for _, e := range w.progress.Due(now, 100) {
			got = append(got, fmt.Sprintf("%s %s %d-%d", e.Group, e.Kind, e.First, e.Last))
		}
		w.progress.Written(now)
		if strings.Join(got, ", ") != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	look("it is there", "app found 4-4")
	src.unread = GroupErrors{"app": errDenied}
	look("its positions are not told", "")
	src.groups = map[string]string{"other": "Empty"}
	look("it is not listed, nor are its positions told", "")
	src.groups = map[string]string{}
	look("nobody is listed, nor are positions told", "")
	src.unread = nil
	look("nobody is listed, and it has its positions", "")
	src.groups = map[string]string{"app": "Empty"}
	look("it is listed again", "")
	src.groups = map[string]string{"other": "Empty"}
	src.commits["app"][orders] = Commit{Offset: 6}
	look("it has moved meanwhile", "")
	src.groups["app"] = "Empty"
	look("it is listed again, and has moved", "app leapt 4-5")
	src.groups, src.commits["app"] = map[string]string{}, nil
	look("it is gone", "app gone 6-6")
	reads := src.reads
	look("it is still gone", "")
	if src.reads != reads {
		t.Error("who is gone is asked for again and again")
	}
}
