package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/waybillhq/waybill/internal/raftnode"
)

// Backup is a fleet's state as a file. It holds no secrets: neither keys nor join
// tokens, and what is declared only refers to passwords.
type Backup struct {
	Format   string    `json:"format"` // backupFormat
	Version  int       `json:"version"`
	FleetID  string    `json:"fleetId"`
	Revision uint64    `json:"revision"`
	Taken    time.Time `json:"taken"`
	Node     string    `json:"node"` // that took it
	// Hash is that of the state, in hexadecimal digits: see State.Hash.
	Hash string `json:"hash"`
	// Sum is the SHA-256 of the file without it, in hexadecimal digits: Hash does not
	// cover the fields above. Files of version 1 have none.
	Sum   string          `json:"sum,omitempty"`
	State json.RawMessage `json:"state"`
}

const (
	backupFormat   = "waybill-fleet-backup"
	backupVersion  = 2
	backupUnsummed = 1 // the last version without Sum
	// MaxBackup bounds a file that is read: 1,000,000 copies take about 200 MB.
	MaxBackup = 1 << 30
)

// Backup returns a file with everything that the fleet had acknowledged before the
// call.
func (n *Node) Backup(ctx context.Context) ([]byte, error) {
	if err := n.Barrier(ctx); err != nil {
		return nil, err
	}
	s, revision := n.Current()
	return s.backup(revision, n.cfg.Name, time.Now())
}

func (s *State) backup(revision uint64, node string, now time.Time) ([]byte, error) {
	kept := *s
	kept.Tokens = nil
	state, err := kept.encode()
	if err != nil {
		return nil, err
	}
	hash, err := kept.Hash()
	if err != nil {
		return nil, err
	}
	b := Backup{
		Format: backupFormat, Version: backupVersion, FleetID: s.FleetID, Revision: revision, Taken: now.UTC().Truncate(time.Second), Node: node,
		Hash: hex.EncodeToString(hash[:]), State: state,
	}
	if b.Sum, err = b.sum(); err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

// sum computes Sum.
func (b Backup) sum() (string, error) {
	b.Sum = ""
	file, err := json.Marshal(b)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:]), nil
}

// intact says what is wrong with a file as a whole.
func (b Backup) intact() error {
	if b.Version == backupUnsummed && b.Sum == "" {
		return nil
	}
	sum, err := b.sum()
	if err == nil && sum != b.Sum {
		err = fmt.Errorf("the file has the sum %s, and should have %q: it was changed or damaged", sum, b.Sum)
	}
	return err
}

// ReadBackup checks a file, and returns what it says of itself, and its state.
func ReadBackup(file []byte) (Backup, *State, error) {
	var b Backup
	if err := json.Unmarshal(file, &b); err != nil {
		return b, nil, fmt.Errorf("not a whole backup: %w", err)
	}
	switch {
	case b.Format != backupFormat:
		return b, nil, errors.New("not a backup of a fleet")
	case b.Version != backupVersion && b.Version != backupUnsummed:
		return b, nil, fmt.Errorf("a backup of version %d, this binary reads %d and %d", b.Version, backupUnsummed, backupVersion)
	}
	if err := b.intact(); err != nil {
		return b, nil, err
	}
	s, err := decodeState(b.State)
	if err != nil {
		return b, nil, err
	}
	hash, err := s.Hash()
	if err != nil {
		return b, nil, err
	}
	if got := hex.EncodeToString(hash[:]); got != b.Hash {
		return b, nil, fmt.Errorf("its state has the hash %s, and should have %s: it was changed or damaged", got, b.Hash)
	}
	if s.FleetID != b.FleetID {
		return b, nil, fmt.Errorf("it says that it is of fleet %s, and holds the state of fleet %s", b.FleetID, s.FleetID)
	}
	return b, s, nil
}

// epochJump separates the revisions of a restored fleet from those of the one that it
// was taken from: that went on after the backup, and its epochs and incarnations must
// never be given out twice. At 1000 commands a second it takes 50 days to write 2^32.
const epochJump = 1 << 32

// restoredAt is the revision at which a fleet begins that is restored at now. Two that
// are restored from one backup must not share revisions, or what was read from one could
// be held against the other (If-Match). So the later one begins further on, by a
// microsecond's worth for each that has passed, which is more than any fleet writes.
func (b *Backup) restoredAt(s *State, now time.Time) uint64 {
	since := max(now.Sub(b.Taken), 0) // by clocks of two nodes
	return max(b.Revision, s.lastRevision()) + epochJump + uint64(since.Microseconds())
}

// restored is a state as a new fleet begins with it: nobody is a member, all lives are
// over, nobody owns anything. Lanes stay, to be fenced; epochs stay, to be exceeded. at
// is the revision at which it begins.
func (s *State) restored(fleetID string, at uint64) *State {
	d := newDraft(s)
	var owned []Work
	s.works(func(w Work, o Owner) {
		if o.Node != "" {
			owned = append(owned, w)
		}
	})
	for _, w := range owned {
		d.owner(w).free()
	}
	d.Members, d.Tokens, d.FleetID = nil, nil, fleetID
	d.RestoredAt, d.Recalled = at, nil // what was recalled before the backup says nothing of what was opened after it
	d.sweep(owned)
	return d.done()
}

// lastRevision is the highest raft index that a state has.
func (s *State) lastRevision() uint64 {
	last := s.ObjectsRevision
	for _, m := range s.Members {
		last = max(last, m.Incarnation)
	}
	for _, l := range s.Lanes {
		last = max(last, l.Incarnation)
	}
	s.works(func(_ Work, o Owner) { last = max(last, o.Epoch, o.Incarnation) })
	return last
}

// Restored is what a restore has made.
type Restored struct {
	Backup Backup
	// Revision at which the new fleet begins.
	Revision uint64
	// Aside is where the directory that was there before is now, empty if none was.
	Aside string
}

// Restore makes the directory of the first node of a new fleet from a backup; that
// node is not running. cfg needs its Name, Dir, Listen or Advertise, and Credentials if
// the fleet has no authority of its own. A directory that is there is refused, or moved
// aside with force. The new fleet has another id, so nodes of the old one are refused.
func Restore(cfg Config, file []byte, force bool) (Restored, error) {
	b, s, err := ReadBackup(file)
	if err != nil {
		return Restored{}, fmt.Errorf("read backup: %w", err)
	}
	if known := cfg.words.orOurs().level; s.level() > known {
		return Restored{}, fmt.Errorf("the backup uses commands of level %d, this version knows them up to %d: %w", s.level(), known, ErrTooOld)
	}
	r := Restored{Backup: b, Revision: b.restoredAt(s, time.Now())}
	// The fleet names itself after its raft group when it starts.
	state, err := s.restored("", r.Revision).encode()
	if err != nil {
		return Restored{}, err
	}
	rc := raftnode.DefaultConfig()
	rc.ID, rc.Dir, rc.Listen, rc.Advertise, rc.Credentials, rc.Logger = cfg.Name, cfg.Dir, cfg.Listen, cfg.Advertise, cfg.Credentials, cfg.Logger
	if _, r.Aside, err = raftnode.Restore(rc, r.Revision, state, force); err != nil {
		return Restored{}, fmt.Errorf("restore: %w", err)
	}
	return r, nil
}
