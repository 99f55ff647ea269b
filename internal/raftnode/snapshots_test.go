package raftnode

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

func testSnapshots(t *testing.T, dir string, logs io.Writer) *checkedSnapshots {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, snapshotsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := openSnapshots(dir, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// takeSnapshot writes one of a group of one and returns its id.
func takeSnapshot(t *testing.T, s raft.SnapshotStore, index uint64, state string) string {
	t.Helper()
	at := place{addr: "a:7071", disk: "0123456789abcdef"}
	members := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: at.server()}}}
	_, nowhere := raft.NewInmemTransport("")
	sink, err := s.Create(raft.SnapshotVersionMax, index, 3, members, index-1, nowhere)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(sealSnapshot(index, []byte(state))); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

// newestOf returns what raft would start from.
func newestOf(t *testing.T, s raft.SnapshotStore) (meta raft.SnapshotMeta, state []byte) {
	t.Helper()
	metas, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(metas) == 0 {
		return meta, nil
	}
	_, rc, err := s.Open(metas[0].ID)
	if err != nil {
		t.Fatalf("it is listed and cannot be opened: %v", err)
	}
	state, err = io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		t.Fatal(err)
	}
	return *metas[0], state
}

// Any flipped bit in any file of a snapshot is found, or changes nothing.
func TestFlippedBitsInSnapshots(t *testing.T) {
	from := t.TempDir()
	var quiet bytes.Buffer
	s := testSnapshots(t, from, &quiet)
	id := takeSnapshot(t, s, 1000, "the state")
	want, wantState := newestOf(t, s)
	if want.Index != 1000 {
		t.Fatalf("it ends at %d, want 1000", want.Index)
	}
	for _, file := range []string{metaFile, stateFile, sumFile} {
		content, err := os.ReadFile(s.path(id, file))
		if err != nil {
			t.Fatal(err)
		}
		found, harmless := 0, 0
		for bit := range len(content) * 8 {
			b := bytes.Clone(content)
			b[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(s.path(id, file), b, 0o600); err != nil {
				t.Fatal(err)
			}
			_, damaged, err := s.survey()
			if err != nil {
				t.Fatal(err)
			}
			if len(damaged) == 1 {
				found++
				continue
			}
			harmless++
			got, state := newestOf(t, s)
			got.Peers = want.Peers // of an older raft: nobody reads it
			if !reflect.DeepEqual(got, want) || !bytes.Equal(state, wantState) {
				t.Errorf("%s: bit %d of byte %d is not found, and the snapshot is %+v %q, was %+v", file, bit%8, bit/8, got, state, want)
			}
		}
		if err := os.WriteFile(s.path(id, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes, %d flips found, %d harmless", file, len(content), found, harmless)
	}
	if strings.Contains(quiet.String(), "moved aside") {
		t.Errorf("a sound snapshot was moved aside: %s", quiet.String())
	}
}

// A snapshot that says of itself that it is the newest would have raft's store
// delete the sound ones.
func TestDamagedSnapshotIsMovedAside(t *testing.T) {
	dir := t.TempDir()
	var logs bytes.Buffer
	s := testSnapshots(t, dir, &logs)
	takeSnapshot(t, s, 1000, "older")
	id := takeSnapshot(t, s, 2000, "newer")
	content, err := os.ReadFile(s.path(id, metaFile))
	if err != nil {
		t.Fatal(err)
	}
	content = bytes.Replace(content, []byte(`"Index":2000`), []byte(`"Index":6000`), 1)
	if err := os.WriteFile(s.path(id, metaFile), content, 0o600); err != nil {
		t.Fatal(err)
	}
	meta, state := newestOf(t, s)
	if _, got, err := openSnapshot(state); meta.Index != 1000 || string(got) != "older" {
		t.Errorf("raft would start from %d with %q (%v), want 1000 with the older state", meta.Index, got, err)
	}
	for _, want := range []string{s.path(id, metaFile), "is damaged", "let it join anew"} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log does not say %q: %s", want, logs.String())
		}
	}
	if kept, err := os.ReadFile(filepath.Join(dir, asideDir, id, metaFile)); err != nil || !bytes.Equal(kept, content) {
		t.Errorf("what was damaged is not kept: %q, %v", kept, err)
	}
	takeSnapshot(t, s, 3000, "newest")
	if metas, err := s.List(); err != nil || len(metas) != 2 || metas[0].Index != 3000 || metas[1].Index != 1000 {
		t.Errorf("got %v, %v, want those at 3000 and 1000", metas, err)
	}
}

// Versions that write no checksum of the metadata, and read none.
func TestSnapshotsOfVersionsWithoutASum(t *testing.T) {
	dir := t.TempDir()
	s := testSnapshots(t, dir, io.Discard)
	takeSnapshot(t, s.SnapshotStore, 1000, "before")
	if meta, state := newestOf(t, s); meta.Index != 1000 || !bytes.HasSuffix(state, []byte("before")) {
		t.Errorf("one without a sum: got %d %q", meta.Index, state)
	}
	takeSnapshot(t, s, 2000, "now")
	if meta, state := newestOf(t, s.SnapshotStore); meta.Index != 2000 || !bytes.HasSuffix(state, []byte("now")) {
		t.Errorf("one with a sum, read by who knows of none: got %d %q", meta.Index, state)
	}
}

// The metadata of a snapshot decides whether the log meets it: a node whose log was
// cut after a snapshot that is damaged does not start, and says which file it is.
func TestDamagedMetadataIsNamed(t *testing.T) {
	dir := t.TempDir()
	s := testSnapshots(t, dir, io.Discard)
	id := takeSnapshot(t, s, 1000, "state")
	r := logReport{first: 1001, last: 1001}
	if err := r.meets(s); err != nil {
		t.Fatal(err)
	}
	flip(t, s.path(id, metaFile), int64(len(`{"Version":1,"ID":"`)))
	var damaged *StoreError
	if err := r.meets(s); !errors.As(err, &damaged) || !strings.Contains(err.Error(), s.path(id, metaFile)) || !strings.Contains(err.Error(), "join anew") {
		t.Errorf("got %v, want a StoreError that names %s", err, metaFile)
	}
}

// A hole in the log does no harm where the newest sound snapshot covers it.
func TestAHoleThatASnapshotCovers(t *testing.T) {
	s := testSnapshots(t, t.TempDir(), io.Discard)
	takeSnapshot(t, s, 1000, "state")
	for next, covered := range map[uint64]bool{903: true, 1001: true, 1002: false} {
		r := logReport{path: "raft.db"}
		for _, index := range []uint64{899, 900, next, next + 1} {
			sealed := sealEntry(&raft.Log{Index: index, Term: 1, Data: []byte("x")})
			var b bytes.Buffer
			if err := errors.Join(codec.NewEncoder(&b, &codec.MsgpackHandle{}).Encode(sealed), r.entry(index, b.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		err := r.meets(s)
		if covered != (err == nil) {
			t.Errorf("next %d: got %v", next, err)
		}
		var damaged *EntryError
		if !covered && (!errors.As(err, &damaged) || damaged.Index != 901 || !strings.Contains(err.Error(), "raft.db")) {
			t.Errorf("next %d: got %v, want an error that names entry 901 and the file", next, err)
		}
	}
}

func FuzzSnapshotMeta(f *testing.F) {
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, snapshotsDir, "1-2-3"), 0o700); err != nil {
		f.Fatal(err)
	}
	s, err := openSnapshots(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	sum, err := metaSum(&raft.SnapshotMeta{Version: 1, ID: "1-2-3", Index: 2, Term: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"Version":1,"ID":"1-2-3","Index":2,"Term":1}`), sum, []byte{})
	f.Fuzz(func(t *testing.T, meta, sum, state []byte) {
		for name, content := range map[string][]byte{metaFile: meta, sumFile: sum, stateFile: state} {
			if err := os.WriteFile(s.path("1-2-3", name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, damaged, err := s.survey(); err != nil || len(damaged) > 1 {
			t.Fatalf("%d damaged snapshots of one, %v", len(damaged), err)
		}
	})
}
