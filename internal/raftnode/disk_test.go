package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// solo runs a group of one in dir.
func solo(g *group, dir string, edit func(*Config)) (*testNode, error) {
	c := DefaultConfig()
	c.ID, c.Dir, c.Logger = "a", dir, slog.New(slog.DiscardHandler)
	if edit != nil {
		edit(&c)
	}
	return g.open(c)
}

func TestRestartKeepsState(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	for i := range 3 {
		n, err := solo(g, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		g.apply(n, fmt.Sprint(i))
		if err := n.end(); err != nil {
			t.Fatal(err)
		}
		if i == 2 && n.replica.State() != "0,1,2" {
			t.Errorf("state is %q, want 0,1,2", n.replica.State())
		}
	}
}

func TestSnapshotReplacesLog(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	edit := func(c *Config) {
		c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 4, 1, 10*time.Millisecond
	}
	n, err := solo(g, dir, edit)
	if err != nil {
		t.Fatal(err)
	}
	snapshots := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for i := range 10 {
		g.apply(n, fmt.Sprint(i))
	}
	g.await("a snapshot", func() bool {
		g.apply(n, "x")
		return len(snapshots()) > 0 && !strings.Contains(fmt.Sprint(snapshots()), ".tmp")
	})
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	want := n.replica.State()
	if n, err = solo(g, dir, edit); err != nil {
		t.Fatal(err)
	}
	g.apply(n, "last")
	if got := n.replica.State(); got != want+",last" {
		t.Errorf("state is %q, want %q", got, want+",last")
	}
	if err := n.end(); err != nil {
		t.Fatal(err)
	}

	// With every snapshot damaged the log alone does not reach back.
	for _, path := range snapshots() {
		flip(t, path, 6)
	}
	var damage *StoreError
	if _, err := solo(g, dir, edit); !errors.As(err, &damage) || !strings.Contains(err.Error(), "newest sound snapshot") ||
		!strings.Contains(err.Error(), "state.bin") || !strings.Contains(err.Error(), "wipe its directory") {
		t.Errorf("open with damaged snapshots: got %v", err)
	}
}

func TestLateMemberGetsSnapshot(t *testing.T) {
	g := newGroup(t, nil)
	g.edit = func(c *Config) {
		c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 4, 1, 10*time.Millisecond
	}
	a := g.start(g.config("a", t.TempDir(), nil))
	g.await("a log that does not reach back", func() bool {
		g.apply(a, "x")
		first, err := a.stores.log.FirstIndex()
		return err == nil && first > 5
	})
	b := g.start(g.config("b", t.TempDir(), a))
	g.await("its state", func() bool { return b.replica.State() == a.replica.State() })
	g.apply(b, "last")
}

// A member that was away for longer than the others' logs reach back is sent a snapshot,
// beyond its own log. It must start again after that.
func TestAMemberThatWasSentASnapshotStartsAgain(t *testing.T) {
	g := newGroup(t, nil)
	g.edit = func(c *Config) {
		c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 4, 1, 10*time.Millisecond
	}
	a := g.start(g.config("a", t.TempDir(), nil))
	g.start(g.config("b", t.TempDir(), a))
	dir := t.TempDir()
	c := g.start(g.config("c", dir, a))
	g.apply(c, "seen by all")
	last, err := c.stores.log.LastIndex()
	if err := errors.Join(err, c.end()); err != nil {
		t.Fatal(err)
	}
	g.await("a log that does not reach back", func() bool {
		g.apply(a, "x")
		first, err := a.stores.log.FirstIndex()
		return err == nil && first > last+2
	})
	for range 2 {
		c = g.start(g.config("c", dir, a))
		g.apply(c, "seen again")
		if err := c.end(); err != nil {
			t.Fatal(err)
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFlippedBitInEntryIsNamed(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	n, err := solo(g, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		g.apply(n, fmt.Sprintf("command number %d", i))
	}
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, logFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// bbolt leaves old pages behind: damage every copy.
	text := []byte("command number 3")
	for at := bytes.Index(b, text); at >= 0; {
		b[at] ^= 1
		at = bytes.Index(b, text)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var damage *EntryError
	_, err = solo(g, dir, nil)
	if !errors.As(err, &damage) || damage.Index == 0 {
		t.Fatalf("got %v, want an EntryError", err)
	}
	if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, joinAnew) {
		t.Errorf("got %q, want the file %s and the remedy", text, path)
	}
}

// Any single flipped bit must be found, or do no harm: the node starts with the
// very state that it had.
func TestFlippedBitsAnywhere(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	n, err := solo(g, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		g.apply(n, fmt.Sprintf("%d %s", i, strings.Repeat("x", 200)))
	}
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	want, err := verifyLogFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		t.Fatal(err)
	}
	const flips = 10_000
	rnd := rand.New(rand.NewPCG(1, 2))
	found, harmless := 0, 0
	for range flips {
		bit := rnd.IntN(len(whole) * 8)
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		got := logReport{path: want.path}
		err := got.scan(b)
		switch {
		case err != nil || got.hole != nil:
			found++
		case got == want:
			harmless++
		default:
			t.Errorf("bit %d of byte %d: not found, and the log is now %+v, was %+v", bit%8, bit/8, got, want)
		}
	}
	t.Logf("%d flips in %d bytes: %d found, %d harmless", flips, len(whole), found, harmless)
}

func TestStoresCheckWhatTheyRead(t *testing.T) {
	inmem := raft.NewInmemStore()
	var failed error
	log := &checkedLog{LogStore: inmem, fail: func(err error) { failed = err }}
	if err := log.StoreLog(&raft.Log{Index: 1, Term: 2, Data: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := log.GetLog(1, &l); err != nil || string(l.Data) != "hello" || failed != nil {
		t.Fatalf("got %q, %v", l.Data, err)
	}
	if err := log.GetLog(2, &l); !errors.Is(err, raft.ErrLogNotFound) || failed != nil {
		t.Errorf("a missing entry: got %v (failed %v)", err, failed)
	}
	for name, damage := range map[string]func(*raft.Log){
		"index":      func(l *raft.Log) { l.Index = 9 },
		"term":       func(l *raft.Log) { l.Term ^= 1 },
		"type":       func(l *raft.Log) { l.Type = raft.LogNoop },
		"extensions": func(l *raft.Log) { l.Extensions = []byte{1} },
		"data":       func(l *raft.Log) { l.Data[entryHeader] ^= 1 },
		"header":     func(l *raft.Log) { l.Data = l.Data[:2] },
	} {
		t.Run(name, func(t *testing.T) {
			sealed := sealEntry(&raft.Log{Index: 1, Term: 2, Data: []byte("hello")})
			damage(sealed)
			var got *EntryError
			if err := openEntry(1, sealed); !errors.As(err, &got) {
				t.Errorf("got %v, want an EntryError", err)
			}
		})
	}

	stable := &checkedStable{StableStore: inmem, path: "p", fail: func(err error) { failed = err }}
	if err := stable.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if got, err := stable.GetUint64([]byte("CurrentTerm")); err != nil || got != 7 {
		t.Errorf("got %d, %v", got, err)
	}
	if _, err := stable.GetUint64([]byte("LastVoteTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("a missing value: got %v; raft knows it by the text \"not found\"", err)
	}
	if err := inmem.Set([]byte("CurrentTerm"), sealValue([]byte("LastVoteTerm"), make([]byte, 8))); err != nil {
		t.Fatal(err)
	}
	var damage *StoreError
	if _, err := stable.GetUint64([]byte("CurrentTerm")); !errors.As(err, &damage) || failed == nil {
		t.Errorf("a value under another key: got %v (failed %v)", err, failed)
	}
}

func TestStoreFailureStopsTheNode(t *testing.T) {
	g := newGroup(t, nil)
	n, err := solo(g, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	g.apply(n, "one")
	cause := errors.New("medium error")
	go n.stores.fail(&StoreError{Path: "raft.db", Err: cause})
	<-n.done
	if !errors.Is(n.err, cause) {
		t.Errorf("Run ended with %v, want %v", n.err, cause)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	g, dir := newGroup(t, nil), t.TempDir()
	n, err := solo(g, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.apply(n, "one")
	if _, err := solo(g, dir, nil); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v, want a timeout waiting for the lock", err)
	}
}

func TestRestoreUnderARunningNodeIsRefused(t *testing.T) {
	g, dir := newGroup(t, nil), filepath.Join(t.TempDir(), "raft")
	n, err := solo(g, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	g.apply(n, "one")
	c := Config{ID: "a", Dir: dir, Listen: "a:1"}
	if _, _, err := Restore(c, 1<<32, []byte("other"), true); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "is running") {
		t.Errorf("got %v, want ErrRefused", err)
	}
	g.apply(n, "two")
	if err := n.end(); err != nil {
		t.Fatal(err)
	}
	group, aside, err := Restore(c, 1<<32, []byte("other"), true)
	if err != nil || group == n.Group() || aside == "" {
		t.Fatalf("group %q, aside %q: %v", group, aside, err)
	}
	if n, err = solo(g, dir, nil); err != nil {
		t.Fatal(err)
	}
	a, err := n.Apply(t.Context(), []byte("three"))
	if err != nil || a.Index <= 1<<32 || n.replica.State() != "other,three" {
		t.Errorf("the restored node is at %d with state %q (%v)", a.Index, n.replica.State(), err)
	}
}

func FuzzReadBolt(f *testing.F) {
	path := filepath.Join(f.TempDir(), logFile)
	s, err := openStores(filepath.Dir(path), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	for i := range uint64(20) {
		if err := s.log.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 50*i)}); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(s.stable.SetUint64([]byte("CurrentTerm"), 1), s.close()); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), uint64(0), uint32(1), uint64(1))
	f.Fuzz(func(t *testing.T, at1 uint32, with1 uint64, at2 uint32, with2 uint64) {
		b := bytes.Clone(whole)
		for i := range 8 {
			b[(int(at1)+i)%len(b)] ^= byte(with1 >> (8 * i))
			b[(int(at2)+i)%len(b)] ^= byte(with2 >> (8 * i))
		}
		_ = new(logReport).scan(b) // must return
	})
}

func FuzzOpenEntry(f *testing.F) {
	f.Add(uint64(1), []byte("hello"))
	f.Fuzz(func(t *testing.T, index uint64, data []byte) {
		raw := &raft.Log{Index: index, Data: bytes.Clone(data)}
		if err := openEntry(index, raw); err != nil {
			var damage *EntryError
			if !errors.As(err, &damage) {
				t.Fatalf("got %v, want an EntryError", err)
			}
		}
		sealed := sealEntry(&raft.Log{Index: index, Data: data})
		if err := openEntry(index, sealed); err != nil || !bytes.Equal(sealed.Data, data) {
			t.Fatalf("sealed and opened: %q, %v", sealed.Data, err)
		}
	})
}

func FuzzOpenSnapshot(f *testing.F) {
	f.Add(sealSnapshot(7, []byte("hello")))
	f.Fuzz(func(t *testing.T, b []byte) {
		index, payload, err := openSnapshot(b)
		if err == nil && !bytes.Equal(sealSnapshot(index, payload), b) {
			t.Fatalf("opened %x as %d, %q", b, index, payload)
		}
	})
}
