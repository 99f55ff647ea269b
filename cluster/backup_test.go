package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

func TestBackupAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, raftnode.NewMemoryNetwork())
		dir := filepath.Join(t.TempDir(), "raft")
		f.edit = func(c *Config) {
			c.Credentials = nil
			if c.Name == "a" {
				c.Dir = dir
			}
		}
		a := f.start(f.config("a", nil))
		f.declare(a, 3)
		f.await("its copies", func() bool { return f.shared([]*testNode{a}, 3) })
		if _, _, _, err := a.NewJoinToken(t.Context(), time.Hour, false); err != nil {
			t.Fatal(err)
		}
		if err := a.session().RegisterLane(t.Context(), Lane{ID: "l", ClusterID: "dst", ProducerID: 1}); err != nil {
			t.Fatal(err)
		}
		file, err := a.Backup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before, revision := a.Current()
		if b, s, err := ReadBackup(file); err != nil || b.Revision != revision || b.FleetID != before.FleetID || len(s.Tokens) != 0 || len(s.Flows) != 1 {
			t.Fatalf("backup %+v of %d (%v)", b, revision, err)
		}

		c := f.config("a", nil)
		if _, err := Restore(c, file, false); !errors.Is(err, raftnode.ErrRefused) || !strings.Contains(err.Error(), "exists") {
			t.Errorf("over a node's state: got %v, want ErrRefused", err)
		}
		if err := a.end(); err != nil {
			t.Fatal(err)
		}
		r, err := Restore(c, file, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(r.Aside, "raft.db")); err != nil {
			t.Errorf("the old directory is gone: %v", err)
		}
		if r.Revision < revision+1<<32 {
			t.Errorf("the new fleet begins at %d, the old one was at %d", r.Revision, revision)
		}
		c.Bootstrap = true // as its file says, still
		next := f.start(c)
		f.await("the copies again", func() bool { return f.shared([]*testNode{next}, 3) })
		after := next.State()
		if after.FleetID == "" || after.FleetID == before.FleetID {
			t.Errorf("the fleet's id is %q, was %q", after.FleetID, before.FleetID)
		}
		if lanes := after.LanesToFence("dst"); len(lanes) != 1 {
			t.Errorf("lanes to fence: %v, want the one of the old fleet", lanes)
		}
		if after.RestoredAt != r.Revision || !after.Forgotten("dst") {
			t.Errorf("restored at %d, want %d; lanes forgotten: %v", after.RestoredAt, r.Revision, after.Forgotten("dst"))
		}
		if _, err := next.Propose(t.Context(), &RecallLanes{ClusterID: "dst", Lanes: []Lane{{ID: "late", ClusterID: "dst", Node: "a", Incarnation: revision + 1}}, Done: true}); err != nil {
			t.Errorf("recall a lane: %v", err)
		}
		if lanes := next.State().LanesToFence("dst"); len(lanes) != 2 || next.State().Forgotten("dst") {
			t.Errorf("lanes to fence: %v, want the backup's and the one that was recalled", lanes)
		}
		after.works(func(w Work, o Owner) {
			old, _ := before.Owner(w)
			if o.Epoch <= r.Revision || o.Incarnation <= r.Revision || o.Epoch <= old.Epoch {
				t.Errorf("%s: epoch %d of incarnation %d, was %d of %d, the new fleet began at %d", w, o.Epoch, o.Incarnation, old.Epoch, old.Incarnation, r.Revision)
			}
		})
		// Others join it with tokens of its own.
		text, _, _, err := next.NewJoinToken(t.Context(), time.Hour, false)
		if err != nil {
			t.Fatal(err)
		}
		bc := f.config("b", next)
		bc.Token = text
		b := f.start(bc)
		f.await("b", func() bool { return next.State().Members["b"].Incarnation != 0 })
		f.sameState([]*testNode{next, b})
	})
}

// What was read from one of two fleets that were restored from one backup is not to be
// held against the other.
func TestTwoRestoresOfOneBackupShareNoRevisions(t *testing.T) {
	taken := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &State{FleetID: "f", ObjectsRevision: 9}
	b := Backup{Revision: 7, Taken: taken}
	const perSecond = 10_000 // commands, more than a fleet writes
	var before uint64
	for i, after := range []time.Duration{0, time.Second, time.Minute, time.Hour, 10 * 365 * 24 * time.Hour} {
		at := b.restoredAt(s, taken.Add(after))
		if at < 9+epochJump || i > 0 && at <= before {
			t.Errorf("restored after %s it begins at %d, another at %d", after, at, before)
		}
		before = at + perSecond // a second later
	}
	if at := b.restoredAt(s, taken.Add(-time.Hour)); at != 9+epochJump {
		t.Errorf("with a clock that is behind it begins at %d", at)
	}
	if at := (&Backup{Revision: 7}).restoredAt(s, taken); at >= 1<<62 {
		t.Errorf("from a backup without a time it begins at %d: there is little room above", at)
	}
}

func TestBackupsThatAreRefused(t *testing.T) {
	s := &State{FleetID: "f", Objects: map[string]Object{"Cluster/us": {Revision: 1, Spec: []byte(`{"a":1}`)}}}
	file, err := s.backup(7, "a", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	// resummed is a file whose sum is right, whatever else is wrong.
	resummed := func(file []byte) []byte {
		var b Backup
		if err := json.Unmarshal(file, &b); err != nil {
			t.Fatal(err)
		}
		var err error
		if b.Sum, err = b.sum(); err == nil {
			file, err = json.Marshal(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	swap := func(old, with string) []byte {
		if !bytes.Contains(file, []byte(old)) {
			t.Fatalf("no %s in %s", old, file)
		}
		return bytes.ReplaceAll(file, []byte(old), []byte(with))
	}
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"cut":                {file[:len(file)/2], "not a whole backup"},
		"empty":              {nil, "not a whole backup"},
		"two in one file":    {append(slices.Clone(file), file...), "not a whole backup"},
		"something else":     {[]byte(`{"kind":"Cluster"}`), "not a backup of a fleet"},
		"of a later version": {swap(`"version":2,"fleetId"`, `"version":3,"fleetId"`), "a backup of version 3"},
		"another revision":   {swap(`"revision":7,`, `"revision":6,`), "the file has the sum"},
		"another time":       {swap(`2026-01-02`, `2026-01-03`), "the file has the sum"},
		"another node":       {swap(`"node":"a"`, `"node":"b"`), "the file has the sum"},
		"another sum":        {swap(`"sum":"`, `"sum":"0`), "the file has the sum"},
		"no sum":             {swap(`"sum":`, `"some":`), "the file has the sum"},
		"an older version":   {swap(`"version":2,"fleetId"`, `"version":1,"fleetId"`), "the file has the sum"},
		"altered":            {swap(`{"a":1}`, `{"a":2}`), "it was changed or damaged"},
		"another hash":       {resummed(swap(`{"a":1}`, `{"a":2}`)), "its state has the hash"},
		"of a later state":   {resummed(swap(`"state":{"version":1`, `"state":{"version":9`)), "version 9"},
		"another id":         {resummed(swap(`"fleetId":"f","revision"`, `"fleetId":"g","revision"`)), "says that it is of fleet g"},
	} {
		if _, _, err := ReadBackup(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
		if _, err := Restore(Config{Name: "a", Dir: filepath.Join(t.TempDir(), "raft"), Listen: "a:1"}, c.file, true); err == nil {
			t.Errorf("%s was restored", name)
		}
	}
	if _, _, err := ReadBackup(file); err != nil {
		t.Error(err)
	}
	// As versions wrote them that knew no sum.
	var old Backup
	if err := json.Unmarshal(file, &old); err != nil {
		t.Fatal(err)
	}
	old.Version, old.Sum = 1, ""
	if file, err = json.Marshal(old); err != nil {
		t.Fatal(err)
	}
	if b, _, err := ReadBackup(file); err != nil || b.Revision != 7 {
		t.Errorf("a file without a sum: %+v, %v", b, err)
	}
}

func FuzzReadBackup(f *testing.F) {
	file, err := (&State{FleetID: "f", Flows: map[string]*Flow{"x": {Topics: map[string]*Topic{"t": {Owners: make([]Owner, 2)}}}}}).backup(7, "a", time.Unix(0, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add([]byte(`{"format":"waybill-fleet-backup","version":1,"state":{"version":1,"state":{"flows":{"a":null}}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, s, err := ReadBackup(b)
		if err != nil {
			return
		}
		r := s.restored("", 8)
		if err := invariants(r); err != nil {
			t.Fatal(err)
		}
		_ = s.lastRevision()
	})
}
