package raftnode

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

const (
	logFile = "raft.db"
	// keepSnapshots: the newest, and one before it to look at.
	keepSnapshots = 2
	// lockTimeout is how long to wait for another process that has the log open.
	lockTimeout = 2 * time.Second
)

// stores are a node's log, its term and vote, and its snapshots.
type stores struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	close     func() error

	mu      sync.Mutex
	running bool // raft's goroutines are the ones that use the stores
	err     error
	failed  chan struct{} // closed when err is set
}

// openStores opens and verifies what is in dir, or makes empty stores in memory.
func openStores(dir string, l *slog.Logger) (*stores, error) {
	s := &stores{failed: make(chan struct{}), close: func() error { return nil }}
	if dir == "" {
		inmem := raft.NewInmemStore()
		s.log, s.stable, s.snapshots = inmem, inmem, raft.NewInmemSnapshotStore()
		return s, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, snapshotsDir), 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	snapshots, err := openSnapshots(dir, l)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, logFile)
	report, err := verifyLogFile(path)
	if err != nil {
		return nil, err
	}
	if err := report.meets(snapshots); err != nil {
		return nil, err
	}
	opts := *bbolt.DefaultOptions
	opts.Timeout = lockTimeout
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &opts})
	if err != nil {
		return nil, &StoreError{Path: path, Err: err}
	}
	s.log = &checkedLog{LogStore: bolt, fail: s.fail}
	s.stable = &checkedStable{StableStore: bolt, path: path, fail: s.fail}
	s.snapshots = snapshots
	s.close = bolt.Close
	return s, nil
}

// started says that from here on raft's goroutines use the stores.
func (s *stores) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
}

// fail notes the first failure. Raft panics when it cannot read an entry that it
// has to apply or cannot store its term; so once raft runs, its goroutine ends
// here instead, and Run, which waits for failed, stops the node with the error.
func (s *stores) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
		close(s.failed)
	}
	running := s.running
	s.mu.Unlock()
	if running {
		runtime.Goexit()
	}
}

func (s *stores) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
