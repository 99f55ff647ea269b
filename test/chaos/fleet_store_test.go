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
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// files returns what is called so below a node's folder, in order.
func (n *node) files(name string) (found []string) {
	n.t.Helper()
	err := filepath.WalkDir(filepath.Join(n.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == name {
			found = append(found, path)
		}
		return err
	})
	must(n.t, err)
	return found
}

// compareLogs reads the raft logs of nodes that have stopped, without the product,
// and looks whether they are one log: equal entries at equal indexes, all of them
// whole. It returns how many it has compared.
func compareLogs(t *testing.T, nodes []*node) (entries int) {
	t.Helper()
	type entry struct {
		raft.Log
		of string
	}
	all := make(map[uint64]entry)
	var last []uint64
	for _, n := range nodes {
		files := n.files("raft.db")
		if len(files) != 1 {
			t.Errorf("%s has %d raft logs", n.name, len(files))
			continue
		}
		store, err := raftboltdb.New(raftboltdb.Options{Path: files[0], BoltOptions: &bbolt.Options{ReadOnly: true}})
		if err != nil {
			t.Errorf("open the log of %s: %v", n.name, err)
			continue
		}
		from, err := store.FirstIndex()
		must(t, err)
		to, err := store.LastIndex()
		must(t, err)
		last = append(last, to)
		snapshot := n.newestSnapshot()
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
			// An entry that was not committed may be another one on a node that was cut
			// off, at the very end.
			if other.Term != l.Term || other.Type != l.Type || !bytes.Equal(other.Data, l.Data) {
				t.Errorf("entry %d is of term %d on %s and of term %d on %s", index, l.Term, n.name, other.Term, other.of)
			}
		}
		must(t, store.Close())
	}
	t.Logf("%d entries of %d raft logs, which end at %v, are equal", entries, len(last), last)
	return entries
}

// someEntry is the stored data of an entry of a stopped node's log: a command, and
// none of the last.
func (n *node) someEntry(rng *rand.Rand) []byte {
	n.t.Helper()
	store, err := raftboltdb.New(raftboltdb.Options{Path: n.files("raft.db")[0], BoltOptions: &bbolt.Options{ReadOnly: true}})
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

// newestSnapshot is the last entry that is in the newest snapshot of a node, by its
// name: TERM-INDEX-TIME.
func (n *node) newestSnapshot() (newest uint64) {
	for _, file := range n.files("state.bin") {
		var term, index, at uint64
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(file)), "%d-%d-%d", &term, &index, &at); err != nil {
			n.t.Errorf("the name of snapshot %s: %v", file, err)
		}
		newest = max(newest, index)
	}
	return newest
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
