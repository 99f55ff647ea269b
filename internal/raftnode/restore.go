package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/waybillhq/waybill/internal/vfs"
)

// Restore makes the directory of the first and only member of a new group, whose
// state is that of an encoded one at index. The member does not have to be Open; cfg
// needs its ID, Dir, Listen or Advertise, Credentials and Logger. A directory that
// exists is refused, unless force is set: then it is moved to aside, never deleted.
// Restore writes everything beside the directory first, so one that is interrupted
// leaves nothing half done.
func Restore(cfg Config, index uint64, state []byte, force bool) (group, aside string, err error) {
	addr := cfg.Advertise
	if addr == "" {
		addr = cfg.Listen
	}
	if err := (place{addr: addr, disk: "0000000000000000"}).check(); err != nil {
		return "", "", fmt.Errorf("address %q: %w", addr, err)
	}
	if _, err := os.Stat(cfg.Dir); err == nil {
		if !force {
			return "", "", fmt.Errorf("%w: %s exists: a node's state is there already", ErrRefused, cfg.Dir)
		}
		if err := unused(cfg.Dir); err != nil {
			return "", "", err
		}
		aside = fmt.Sprintf("%s.before-restore-%s", cfg.Dir, time.Now().UTC().Format("20060102T150405.000"))
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("look at the node's directory: %w", err)
	}
	fresh := cfg.Dir + ".restoring"
	if err := os.RemoveAll(fresh); err != nil {
		return "", "", fmt.Errorf("remove what an interrupted restore left: %w", err)
	}
	if group, err = writeGroup(cfg, fresh, addr, index, state); err != nil {
		return "", "", errors.Join(err, os.RemoveAll(fresh))
	}
	if aside != "" {
		if err := os.Rename(cfg.Dir, aside); err != nil {
			return "", "", fmt.Errorf("move the old directory aside: %w", err)
		}
	}
	if err := os.Rename(fresh, cfg.Dir); err != nil {
		return "", aside, fmt.Errorf("put the new directory in place: %w", err)
	}
	return group, aside, vfs.OS{}.SyncDir(filepath.Dir(cfg.Dir))
}

// unused refuses a directory in which a process works.
func unused(dir string) error {
	path := filepath.Join(dir, logFile)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%w: a node is running in %s: stop it first", ErrRefused, dir)
	}
	if err != nil {
		return nil // damaged: all the more reason to restore
	}
	return db.Close()
}

// writeGroup writes a whole directory.
func writeGroup(cfg Config, dir, addr string, index uint64, state []byte) (group string, err error) {
	s, err := openStores(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	d, err := openDisk(s.stable)
	if err != nil {
		return "", err
	}
	group = randomHex(16)
	const term = 1 // the first election begins the second
	if err := errors.Join(s.stable.Set([]byte(keyGroup), []byte(group)), s.stable.SetUint64([]byte("CurrentTerm"), term)); err != nil {
		return "", fmt.Errorf("begin the group: %w", err)
	}
	if cfg.Credentials == nil {
		i, err := newAuthority(group, cfg.ID, d.id)
		if err == nil {
			err = i.save(dir)
		}
		if err != nil {
			return "", err
		}
	}
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(cfg.ID), Address: place{addr: addr, disk: d.id}.server()}}}
	_, nowhere := raft.NewInmemTransport("")
	sink, err := s.snapshots.Create(raft.SnapshotVersionMax, index, term, alone, index, nowhere)
	if err != nil {
		return "", fmt.Errorf("write snapshot: %w", err)
	}
	if _, err := sink.Write(sealSnapshot(index, state)); err != nil {
		return "", errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return group, errors.Join(sink.Close(), vfs.OS{}.SyncDir(dir))
}
