package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

// logReport is what a verified log file holds. The zero logReport is that of a
// file that does not exist.
type logReport struct {
	// Entries, 0 if none. They are contiguous: what lies before a hole is of no use, and
	// that there is one is an error unless a snapshot covers it.
	first, last uint64
	hole        error
	lastTerm    uint64
	term        uint64 // current term, 0 if none
	path        string
}

// stableKeys are the keys that raft and this package store beside the log. Any
// other is one of them with a flipped bit.
var stableKeys = map[string]bool{
	"CurrentTerm": true, "LastVoteTerm": true, "LastVoteCand": true,
	keyDisk: true, keyLife: true, keyGroup: true, keyLives: true,
}

// verifyLogFile reads a whole log file and returns a *StoreError if anything in it
// is damaged, around an *EntryError if it is an entry. A file that does not exist is
// fine.
func verifyLogFile(path string) (r logReport, err error) {
	r.path = path
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return r, nil // new, or killed before bbolt wrote its first page
	}
	var whole []byte
	if err == nil {
		whole, err = readLocked(path)
	}
	if err == nil {
		err = r.scan(whole)
	}
	if err != nil {
		err = &StoreError{Path: path, Err: fmt.Errorf("%w. %s", err, joinAnew)}
	}
	return r, err
}

// joinAnew is the remedy for damage that a node cannot do without.
const joinAnew = "Remove this node from the group, wipe its directory and let it join anew"

// readLocked reads a file while bbolt has it locked against other processes.
func readLocked(path string) (whole []byte, err error) {
	// bbolt may follow damage off its map, and panic on what it finds.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pages are damaged: %v", p)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if err != nil {
		return nil, err
	}
	whole, err = os.ReadFile(path)
	return whole, errors.Join(err, db.Close())
}

func (r *logReport) scan(whole []byte) error {
	err := readBolt(whole, func(bucket string, k, v []byte) error {
		switch bucket {
		case "conf":
			return r.setting(k, v)
		case "logs":
			if len(k) != 8 {
				return fmt.Errorf("entry with a key of %d bytes", len(k))
			}
			return r.entry(binary.BigEndian.Uint64(k), v)
		}
		return fmt.Errorf("unknown bucket %q", bucket)
	})
	if err != nil {
		return err
	}
	if r.last > 0 && r.term < r.lastTerm {
		return fmt.Errorf("the current term is %d, but the last entry's is %d", r.term, r.lastTerm)
	}
	return nil
}

func (r *logReport) setting(k, v []byte) error {
	value, err := openValue(k, v)
	if err != nil {
		return err
	}
	if !stableKeys[string(k)] {
		return fmt.Errorf("unknown key %q", k)
	}
	if string(k) == "CurrentTerm" && len(value) == 8 {
		r.term = binary.BigEndian.Uint64(value)
	}
	return nil
}

func (r *logReport) entry(index uint64, value []byte) error {
	if r.last > 0 && index != r.last+1 {
		r.hole = &EntryError{Index: r.last + 1, Err: fmt.Errorf("it is missing; the next is %d", index)}
		r.first = 0
	}
	var l raft.Log
	if err := codec.NewDecoderBytes(value, &codec.MsgpackHandle{}).Decode(&l); err != nil {
		return &EntryError{Index: index, Err: err}
	}
	if err := openEntry(index, &l); err != nil {
		return err
	}
	if l.Term < r.lastTerm {
		return &EntryError{Index: index, Err: fmt.Errorf("its term %d is below its predecessor's, %d", l.Term, r.lastTerm)}
	}
	if r.first == 0 {
		r.first = index
	}
	r.last, r.lastTerm = index, l.Term
	return nil
}

// meets checks that the log begins where the newest sound snapshot ends, or before.
// Without it raft would start from an older state and find a hole. One that the snapshot
// covers is where a leader's snapshot went beyond the log: raft appends behind it, and leaves
// what was there until it compacts the log.
func (r *logReport) meets(snapshots *checkedSnapshots) error {
	newest, damaged, err := snapshots.survey()
	if err != nil {
		return err
	}
	if r.first <= newest+1 {
		return nil // raft lists the snapshots, and with that the damaged are moved aside
	}
	if r.hole != nil && len(damaged) == 0 {
		return &StoreError{Path: r.path, Err: fmt.Errorf("%w. %s", r.hole, joinAnew)}
	}
	err = fmt.Errorf("the log begins at entry %d, but the newest sound snapshot ends at %d", r.first, newest)
	for _, d := range damaged {
		err = fmt.Errorf("%w; %w", err, d)
	}
	return &StoreError{Path: snapshots.dir, Err: fmt.Errorf("%w. %s", err, joinAnew)}
}
