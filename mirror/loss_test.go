package mirror

import (
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
)

func TestCommonEnd(t *testing.T) {
	at := Position{Next: 150, SourceLeaderEpoch: 6, Epochs: []SourceEpoch{{0, 2}, {40, 5}, {100, 6}}}
	for name, c := range map[string]struct {
		asked, has int32
		end        int64
		cut        int64
		lower      int32
	}{
		"nothing is lost":                                {6, 6, 150, 150, -1},
		"the source has more of that epoch":              {6, 6, 170, 150, -1},
		"the end of the epoch is lost":                   {6, 6, 120, 120, -1},
		"the epoch is lost, the one before goes further": {6, 5, 120, 100, -1},
		"the epoch is lost and some of the one before":   {6, 5, 90, 90, -1},
		"an epoch of which the copy has nothing":         {6, 4, 90, -1, 2},
		"asked for that one":                             {2, 2, 40, 40, -1},
		"and it ends earlier":                            {2, 2, 30, 30, -1},
		"an epoch before all of the copy":                {2, 1, 20, -1, -1},
		"the source knows none":                          {6, -1, -1, -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			if cut, lower := commonEnd(at, c.asked, c.has, c.end); cut != c.cut || lower != c.lower {
				t.Errorf("got %d, %d, want %d, %d", cut, lower, c.cut, c.lower)
			}
		})
	}
}

// TestCommonEndAgainstAllHistories compares with looking at every record: two logs
// part somewhere, and grow under epochs that no two leaders share.
func TestCommonEndAgainstAllHistories(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var shared, ours, theirs []int32 // epoch by offset
		epoch := int32(0)
		grow := func(log []int32, parity int32) []int32 {
			for range rng.IntN(4) {
				epoch += 1 + rng.Int32N(3)
				if parity >= 0 && epoch%2 != parity {
					epoch++
				}
				for range 1 + rng.IntN(5) {
					log = append(log, epoch)
				}
			}
			return log
		}
		shared = grow(shared, -1)
		shared = append(shared, epoch+1)
		epoch++
		cut := 1 + rng.IntN(len(shared))
		ours = grow(slices.Clone(shared), 0)
		theirs = grow(slices.Clone(shared[:cut]), 1)
		want := 0
		for want < len(ours) && want < len(theirs) && ours[want] == theirs[want] {
			want++
		}
		at := Position{Next: int64(len(ours)), SourceLeaderEpoch: ours[len(ours)-1]}
		for i, e := range ours {
			if i == 0 || e != ours[i-1] {
				at.Epochs = append(at.Epochs, SourceEpoch{int64(i), e})
			}
		}
		got, asked := int64(-1), at.SourceLeaderEpoch
		for got < 0 && asked >= 0 {
			has, end := int32(-1), int64(-1)
			for i, e := range theirs {
				if e <= asked {
					has, end = e, int64(i+1)
				}
			}
			got, asked = commonEnd(at, asked, has, end)
		}
		if got != int64(want) {
			t.Fatalf("ours %v, theirs %v: cut %d, want %d", ours, theirs, got, want)
		}
	}
}

// stored is what a bundled broker's disk held of a partition.
type stored map[string][]byte

// snapshot reads a partition's files. The broker is to stand still.
func (w *world) snapshot(s *site, name, topic string) (dir string, files stored) {
	w.t.Helper()
	topics, err := s.admin.ListTopics(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	id := topics[topic].ID
	fs := w.hosts[name].fs
	var find func(at string) string
	find = func(at string) string {
		names, err := fs.ReadDir(at)
		if err != nil {
			return ""
		}
		for _, n := range names {
			if strings.Contains(n, fmt.Sprintf("%x", id[:])) || strings.Contains(n, ledger.TopicID(id).String()) {
				return path.Join(at, n, "0")
			}
			if found := find(path.Join(at, n)); found != "" {
				return found
			}
		}
		return ""
	}
	if dir = find("data"); dir == "" {
		w.t.Fatalf("%s stores no topic %s (%x)", name, topic, id[:])
	}
	files = stored{}
	names, err := fs.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, n := range names {
		f, err := fs.Open(path.Join(dir, n))
		if err != nil {
			w.t.Fatal(err)
		}
		size, _ := f.Size()
		content := make([]byte, size)
		_, _ = f.ReadAt(content, 0) // a short read shows in the test
		files[n] = content
		_ = f.Close()
	}
	return dir, files
}

// cutBack stops a site, gives a partition back what its disk held, and starts it:
// what was acknowledged since is lost, as by an unclean election.
func (w *world) cutBack(name, dir string, files stored) {
	w.t.Helper()
	h := w.hosts[name]
	h.stop()
	check := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	check(h.fs.RemoveAll(dir))
	check(h.fs.MkdirAll(dir))
	for n, content := range files {
		f, err := h.fs.Create(path.Join(dir, n))
		check(err)
		_, err = f.WriteAt(content, 0)
		check(err)
		check(f.Sync())
		check(f.Close())
	}
	check(h.fs.SyncDir(dir))
	h.start(w)
}

// truncatedSource is a world in which the source has lost the records 30 to 49
// after they were copied, and has others instead.
func truncatedSource(t *testing.T, policy string) (*world, *node) {
	w := newWorld(t)
	w.bundledOnly("west")
	w.create(t, "orders", 1)
	n := w.node("a", nil)
	list := w.copies(1, 1, "orders")
	list[0].Spec.Spec.Policies.OnTruncate = policy
	n.Assign(list)
	w.west.produce(t, "orders", 0, 0, 30)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.hosts["west"].stop()
	w.hosts["west"].start(w) // all that it has is on its disk now
	dir, files := w.snapshot(w.west, "west", "orders")
	w.west.produce(t, "orders", 0, 30, 50)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 50 })
	w.cutBack("west", dir, files)
	again := &site{Cluster: w.west.Cluster, client: w.client(w.west.Cluster)}
	again.produce(t, "orders", 0, 1030, 1060)
	return w, n
}

// The source loses records that were copied (KIP-320): the copy stops at the very
// offset and says so.
func TestATruncatedSourceStopsTheCopy(t *testing.T) {
	t.Parallel()
	w, n := truncatedSource(t, flow.TruncateStop)
	eventually(t, "stopped", func() bool {
		s := n.only()
		return s.State == Failed && s.Position == 50 && strings.Contains(s.Reason, errTruncated.Error()) && strings.Contains(s.Fix, "onTruncate")
	})
	w.east.expect(t, "orders", 0, 50)
	if r := entriesIn[*ledger.Retraction](t, w.east); len(r) != 0 {
		t.Errorf("the ledger takes back %v", r)
	}
}

// With the other policy the ledger takes back what the source has lost, and the
// copy goes on from the cut: what the destination has stays there.
func TestATruncatedSourceIsRetracted(t *testing.T) {
	t.Parallel()
	w, n := truncatedSource(t, flow.TruncateRetract)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 60 })
	got := w.east.read(t, "orders", 0, 80)
	for i, r := range got {
		want := i
		if i >= 50 {
			want = 1030 + i - 50
		}
		if string(r.Value) != fmt.Sprint(want) {
			t.Fatalf("record %d is %s, want %d", i, r.Value, want)
		}
	}
	if r := entriesIn[*ledger.Retraction](t, w.east); len(r) != 1 || r[0].Source != 30 || r[0].Lost != ledger.LostAtSource {
		t.Errorf("the ledger takes back %+v, want from 30 on, lost at the source", r)
	}
	w.gapsAre(t, nil)
}

// lossyDestination is a world in which the destination has lost the records 30 to
// 49.
func lossyDestination(t *testing.T, policy string, meanwhile func(w *world)) (*world, *node) {
	w := newWorld(t)
	w.bundledOnly("east")
	w.create(t, "orders", 1)
	n := w.node("a", func(c *Config) { c.MetadataInterval = 200 * time.Millisecond })
	list := w.copies(1, 1, "orders")
	list[0].Spec.Spec.Policies.OnLoss = policy
	n.Assign(list)
	w.west.produce(t, "orders", 0, 0, 30)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 30 })
	w.hosts["east"].stop()
	w.hosts["east"].start(w)
	dir, files := w.snapshot(w.east, "east", "orders")
	w.west.produce(t, "orders", 0, 30, 50)
	w.east.expect(t, "orders", 0, 50)
	eventually(t, "caught up", func() bool { return n.caughtUp(1) && n.only().Position == 50 })
	w.cutBack("east", dir, files)
	meanwhile(w)
	return w, n
}

// The destination loses what it had: an idle copy finds out when the leader
// changes, takes it back in the ledger, and copies it again.
func TestALossAtTheDestinationIsCopiedAgain(t *testing.T) {
	t.Parallel()
	w, n := lossyDestination(t, flow.LossRecopy, func(*world) {})
	eventually(t, "taken back", func() bool { return len(entriesIn[*ledger.Retraction](t, w.east)) > 0 })
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.west.produce(t, "orders", 0, 50, 60)
	w.east.expect(t, "orders", 0, 60)
	if r := entriesIn[*ledger.Retraction](t, w.east); len(r) != 1 || r[0].Source != 30 || r[0].Lost != ledger.LostAtDestination {
		t.Errorf("the ledger takes back %+v, want from 30 on, lost at the destination", r)
	}
	w.gapsAre(t, nil)
}

func TestALossAtTheDestinationStopsTheCopy(t *testing.T) {
	t.Parallel()
	w, n := lossyDestination(t, flow.LossStop, func(*world) {})
	eventually(t, "stopped", func() bool {
		s := n.only()
		return s.State == Failed && strings.Contains(s.Reason, errLost.Error()) && strings.Contains(s.Fix, "onLoss")
	})
	w.east.expect(t, "orders", 0, 30)
}

// Where others have written since, what is copied again would stand behind it.
func TestALossThatOthersHaveFilledStopsTheCopy(t *testing.T) {
	t.Parallel()
	_, n := lossyDestination(t, flow.LossRecopy, func(w *world) {
		cl, err := kafka.NewClient(w.east.Cluster, "other")
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for range 100 {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("other")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	})
	eventually(t, "stopped", func() bool {
		s := n.only()
		return s.State == Failed && strings.Contains(s.Reason, errRefilled.Error()) && s.Fix != ""
	})
}

// A copy that is overtaken by the source's retention stops if the flow says so, and
// goes on behind the gap when it says otherwise.
func TestAGapMayStopTheCopy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create(t, "orders", 1)
	w.west.produce(t, "orders", 0, 0, 20)
	deleteBefore(t, w.west, "orders", 5) // before the copy begins: not its gap
	n := w.node("a", nil)
	with := func(policy string) []Assignment {
		list := w.copies(1, 1, "orders")
		list[0].Spec.Spec.Policies.OnGap = policy
		return list
	}
	n.Assign(with(flow.GapStop))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	n.Assign(nil)
	eventually(t, "paused", func() bool { return len(n.Status()) == 0 })
	w.west.produce(t, "orders", 0, 20, 40)
	deleteBefore(t, w.west, "orders", 30)
	n.Assign(with(flow.GapStop))
	eventually(t, "stopped", func() bool {
		s := n.only()
		return s.State == Failed && s.Position == 20 && strings.Contains(s.Reason, "offsets 20 to 29") && strings.Contains(s.Fix, "onGap")
	})
	n.Assign(with(flow.GapContinue))
	eventually(t, "caught up", func() bool { return n.caughtUp(1) })
	w.gapsAre(t, map[ledger.Reason]int64{ledger.Expired: 5 + 10})
}

// A hop is of one leader epoch of the source: cutting a copy back relies on it.
func TestAHopIsOfOneLeaderEpoch(t *testing.T) {
	run := func(from int64, epoch int32) placed {
		return placed{chunk: chunk{from: from, next: from + 10, path: ledger.Raw, leaderEpoch: epoch, runs: []sourceRun{{source: from, count: 10}}}, base: from}
	}
	hops := hopsOf(ledger.Hop{}, []placed{run(0, 5), run(10, 5), run(20, 6), run(30, 6), {chunk: gapChunk(40, 50, ledger.Expired, -1)}, run(50, 6)})
	var got []string
	for _, h := range hops {
		got = append(got, fmt.Sprintf("%d-%d of %d", h.From, h.Next, h.SourceLeaderEpoch))
		if err := h.Check(); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"0-20 of 5", "20-40 of 6", "40-50 of -1", "50-60 of 6"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
