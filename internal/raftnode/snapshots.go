package raftnode

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/waybillhq/waybill/internal/vfs"
)

// Names in a node's directory. What raft's file store calls its own is repeated
// because it does not export it.
const (
	snapshotsDir = "snapshots"
	unfinished   = ".tmp" // of a snapshot that is being written
	metaFile     = "meta.json"
	stateFile    = "state.bin"
	// sumFile, beside metaFile, has the checksum of what metaFile says.
	sumFile = "meta.sum"
	// asideDir is where damaged snapshots go. Where raft's store looks, one with a
	// large index would be taken for the newest, and sound ones be deleted for it.
	asideDir = "damaged-snapshots"
	// maxMeta bounds a metaFile in bytes: a few members, some 300 bytes each.
	maxMeta = 1 << 20
)

// checkedSnapshots is raft's file store with a checksum of each snapshot's
// metadata, and without damaged snapshots: the state has a checksum of the store's,
// but index, term and members, which raft goes by, have none.
//
// The checksum is a file of its own, in the snapshot's directory before that gets
// its name. So a version that does not know of it reads the snapshots too, and one
// without it, of such a version, is taken at its word.
type checkedSnapshots struct {
	raft.SnapshotStore
	dir string // the node's
	log *slog.Logger
	mu  sync.Mutex // one sweep at a time
}

var _ raft.SnapshotStore = (*checkedSnapshots)(nil)

func openSnapshots(dir string, l *slog.Logger) (*checkedSnapshots, error) {
	inner, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, newHCLogger(l))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &checkedSnapshots{SnapshotStore: inner, dir: dir, log: l}, nil
}

// Create implements raft.SnapshotStore. The store deletes old snapshots when a new
// one is complete, so damaged ones go first.
func (s *checkedSnapshots) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if err := s.sweep(); err != nil {
		return nil, err
	}
	sink, err := s.SnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	sum, err := metaSum(&raft.SnapshotMeta{
		Version: version, ID: sink.ID(), Index: index, Term: term, Configuration: members, ConfigurationIndex: membersIndex,
	})
	dir := s.path(sink.ID() + unfinished)
	if err == nil {
		err = vfs.WriteFile(vfs.Private{}, filepath.Join(dir, sumFile), sum)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write a snapshot's checksum: %w", err), sink.Cancel())
	}
	return sink, nil
}

// List implements raft.SnapshotStore.
func (s *checkedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	if err := s.sweep(); err != nil {
		return nil, err
	}
	return s.SnapshotStore.List()
}

// sweep moves damaged snapshots aside.
func (s *checkedSnapshots) sweep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, damaged, err := s.survey()
	for _, d := range damaged {
		if err == nil {
			err = s.setAside(d)
		}
	}
	return err
}

// damage is a snapshot that cannot be vouched for.
type damage struct {
	id string
	*StoreError
}

// survey reads all snapshots. newest is the highest index of a sound one, 0 if there
// is none.
func (s *checkedSnapshots) survey() (newest uint64, damaged []damage, err error) {
	entries, err := os.ReadDir(s.path())
	if err != nil {
		return 0, nil, fmt.Errorf("list snapshots: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		switch index, file, err := s.check(e.Name()); {
		case err == nil:
			newest = max(newest, index)
		case !errors.Is(err, fs.ErrNotExist) || s.has(e.Name()): // the store has not removed it meanwhile
			damaged = append(damaged, damage{e.Name(), &StoreError{Path: s.path(e.Name(), file), Err: err}})
		}
	}
	return newest, damaged, nil
}

func (s *checkedSnapshots) has(id string) bool {
	_, err := os.Stat(s.path(id))
	return err == nil
}

func (s *checkedSnapshots) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir, snapshotsDir}, parts...)...)
}

// check reads a snapshot as a whole and returns its index, or which of its files is
// wrong.
func (s *checkedSnapshots) check(id string) (index uint64, file string, err error) {
	text, err := readSmall(s.path(id, metaFile))
	if err != nil {
		return 0, metaFile, err
	}
	var meta raft.SnapshotMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return 0, metaFile, err
	}
	sum, err := os.ReadFile(s.path(id, sumFile))
	switch {
	case err == nil:
		if err := meetsSum(&meta, sum); err != nil {
			return 0, metaFile, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, sumFile, err
	}
	if meta.ID != id {
		return 0, metaFile, fmt.Errorf("it says that it is of snapshot %q", meta.ID)
	}
	info, err := os.Stat(s.path(id, stateFile))
	if err != nil {
		return 0, stateFile, err
	}
	if info.Size() != meta.Size {
		return 0, stateFile, fmt.Errorf("it has %d bytes, and %s says %d", info.Size(), metaFile, meta.Size)
	}
	_, state, err := s.Open(id) // compares the state's checksum
	if err != nil {
		return 0, stateFile, err
	}
	return meta.Index, stateFile, state.Close()
}

// setAside moves a damaged snapshot to where nobody looks for one.
func (s *checkedSnapshots) setAside(d damage) error {
	to := filepath.Join(s.dir, asideDir, d.id)
	err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.RemoveAll(to))
	if err == nil {
		err = vfs.OS{}.RenameDir(s.path(d.id), to)
	}
	if err != nil {
		return fmt.Errorf("%w. It cannot be moved aside: %w", d, err)
	}
	s.log.Error("a snapshot is damaged and was moved aside; the one before it and the log are used. If it happens again the disk is at fault: remove this node from the group, give it another disk and let it join anew",
		"file", d.Path, "error", d.Err, "aside", to)
	return nil
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxMeta {
		return nil, fmt.Errorf("it has %d bytes, at most %d are expected", info.Size(), maxMeta)
	}
	return os.ReadFile(path)
}

// A sumFile is one line: "v1 ", the CRC-32C of what metaFile says in 8 hexadecimal
// digits, and a line feed. It covers what is known when a snapshot begins; length
// and checksum of the state come later and are compared with the state itself.
const sumPrefix = "v1 "

func metaSum(m *raft.SnapshotMeta) ([]byte, error) {
	covered, err := json.Marshal(struct {
		Version raft.SnapshotVersion
		ID      string
		Index   uint64
		Term    uint64
		Members raft.Configuration
		At      uint64
	}{m.Version, m.ID, m.Index, m.Term, m.Configuration, m.ConfigurationIndex})
	if err != nil {
		return nil, err
	}
	sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(covered, castagnoli))
	return []byte(sumPrefix + hex.EncodeToString(sum) + "\n"), nil
}

func meetsSum(m *raft.SnapshotMeta, stored []byte) error {
	want, err := metaSum(m)
	if err != nil {
		return err
	}
	if string(stored) != string(want) {
		return fmt.Errorf("its checksum in %s is %.16q, computed %q", sumFile, stored, want)
	}
	return nil
}
