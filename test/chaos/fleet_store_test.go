//go:build chaos && linux

package chaos

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// logFile is the file of a node's raft log.
func (n *node) logFile() string { return filepath.Join(n.dir, "data", "raft", "raft.db") }

// compareLogs reads the raft logs of nodes that have stopped, without the product,
// and looks whether they are one log: equal entries at equal indexes, all of them
// whole. It returns how many entries of each node another one has, too.
func compareLogs(t *testing.T, nodes []*node) (shared map[string]int) {
	t.Helper()
	type entry struct {
		raft.Log
		of string
	}
	all := make(map[uint64]entry)
	shared = make(map[string]int)
	entries := 0
	var last []uint64
	for _, n := range nodes {
		store, err := raftboltdb.New(raftboltdb.Options{Path: n.logFile(), BoltOptions: &bbolt.Options{ReadOnly: true}})
		if err != nil {
			t.Errorf("open the log of %s: %v", n.name, err)
			continue
		}
		from, err := store.FirstIndex()
		must(t, err)
		to, err := store.LastIndex()
		must(t, err)
		last = append(last, to)
		_, snapshot := n.newestSnapshot()
		for index := from; index <= to && index > 0; index++ {
			var l raft.Log
			err := store.GetLog(index, &l)
			if errors.Is(err, raft.ErrLogNotFound) && index <= snapshot {
				continue // it fell behind, and was sent a snapshot
			}
			if err != nil {
				t.Errorf("entry %d of %s, whose newest snapshot is of %d: %v", index, n.name, snapshot, err)
				break
			}
			if err := wholeEntry(&l); err != nil {
				t.Errorf("entry %d of %s: %v", index, n.name, err)
			}
			other, ok := all[index]
			if !ok {
				all[index] = entry{l, n.name}
				continue
			}
			entries++
			shared[n.name]++
			shared[other.of]++
			// An entry that was not committed may be another one on a node that was cut
			// off, at the very end.
			if other.Term != l.Term || other.Type != l.Type || !bytes.Equal(other.Data, l.Data) {
				t.Errorf("entry %d is of term %d on %s and of term %d on %s", index, l.Term, n.name, other.Term, other.of)
			}
		}
		must(t, store.Close())
	}
	t.Logf("%d entries of %d raft logs, which end at %v, are equal", entries, len(last), last)
	return shared
}

// aloneIn are the nodes of which compareLogs has compared nothing.
func aloneIn(shared map[string]int, nodes []*node) (names []string) {
	for _, n := range nodes {
		if shared[n.name] == 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// someEntry is the stored data of an entry of a stopped node's log: a command, and
// none of the last.
func (n *node) someEntry(rng *rand.Rand) []byte {
	n.t.Helper()
	store, err := raftboltdb.New(raftboltdb.Options{Path: n.logFile(), BoltOptions: &bbolt.Options{ReadOnly: true}})
	must(n.t, err)
	defer store.Close()
	first, err := store.FirstIndex()
	must(n.t, err)
	last, err := store.LastIndex()
	must(n.t, err)
	for {
		var l raft.Log
		if err := store.GetLog(first+rng.Uint64N(last-first), &l); err == nil && l.Type == raft.LogCommand && len(l.Data) > 50 {
			return l.Data
		}
	}
}

// newestSnapshot is the state in the newest complete snapshot of a node, "" if it has
// none, and the last entry that is in it: a snapshot is called TERM-INDEX-TIME, and one
// that is being written has more to its name.
func (n *node) newestSnapshot() (state string, newest uint64) {
	n.t.Helper()
	dirs, err := os.ReadDir(filepath.Join(n.dir, "data", "raft", "snapshots"))
	if !errors.Is(err, fs.ErrNotExist) {
		must(n.t, err)
	}
	for _, d := range dirs {
		parts := strings.Split(d.Name(), "-")
		if len(parts) != 3 || strings.Contains(d.Name(), ".") {
			continue
		}
		index, err := strconv.ParseUint(parts[1], 10, 64)
		must(n.t, err)
		if index >= newest {
			state, newest = filepath.Join(n.dir, "data", "raft", "snapshots", d.Name(), "state.bin"), index
		}
	}
	return state, newest
}

// wholeEntry checks the checksum of a stored entry as its format has it: version,
// CRC-32C, then the data, over index, term, type, length of the extensions, the
// extensions and the data.
func wholeEntry(l *raft.Log) error {
	if len(l.Data) < 5 || l.Data[0] != 1 {
		return fmt.Errorf("it begins with %x", l.Data[:min(5, len(l.Data))])
	}
	var head []byte
	head = binary.BigEndian.AppendUint64(head, l.Index)
	head = binary.BigEndian.AppendUint64(head, l.Term)
	head = append(head, byte(l.Type))
	head = binary.BigEndian.AppendUint32(head, uint32(len(l.Extensions)))
	head = append(head, l.Extensions...)
	head = append(head, l.Data[5:]...)
	sum := crc32.Checksum(head, crc32.MakeTable(crc32.Castagnoli))
	if stored := binary.BigEndian.Uint32(l.Data[1:5]); stored != sum {
		return fmt.Errorf("its checksum is %08x, it says %08x", sum, stored)
	}
	return nil
}
