package raftnode

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/hashicorp/raft"
)

// What a node keeps beside raft's own term and vote, under the same checksums
// and in the same file: whoever puts back or wipes one does it with the other.
const (
	keyDisk  = "WaybillDisk"  // random, chosen once for the life of the directory
	keyLife  = "WaybillLife"  // u64, how often the directory has been opened
	keyGroup = "WaybillGroup" // id of the group that the directory belongs to
	keyLives = "WaybillLives" // JSON, the lives of other members' disks
)

// disk is the identity of a node's directory. A group counts votes and
// acknowledgements of disks, not of names: a directory that was wiped is another
// disk, and one that was put back from a copy is in an earlier life than the
// group knows.
type disk struct {
	id    string
	life  uint64
	group string // empty until the node belongs to one
}

// openDisk reads the identity, makes one for a new directory, and begins its next
// life. It returns after that is on disk.
func openDisk(s raft.StableStore) (disk, error) {
	var d disk
	id, err := get(s, keyDisk)
	if err != nil {
		return d, err
	}
	group, err := get(s, keyGroup)
	if err != nil {
		return d, err
	}
	life, err := get(s, keyLife)
	if err != nil {
		return d, err
	}
	d.id, d.group = string(id), string(group)
	if len(life) == 8 {
		d.life = binary.BigEndian.Uint64(life)
	}
	if d.id == "" {
		d.id = randomHex(8)
		if err := s.Set([]byte(keyDisk), []byte(d.id)); err != nil {
			return d, fmt.Errorf("name the disk: %w", err)
		}
	}
	d.life++
	if err := s.SetUint64([]byte(keyLife), d.life); err != nil {
		return d, fmt.Errorf("count the disk's lives: %w", err)
	}
	return d, nil
}

// get returns a value of a StableStore, nil if there is none.
func get(s raft.StableStore, key string) ([]byte, error) {
	v, err := s.Get([]byte(key))
	if err != nil && err.Error() != "not found" { // raft's own convention
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return v, nil
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// place is what raft takes for a member's address: where it listens, which disk
// answers there, and whether it never votes. It travels with raft's configuration,
// so all members agree on it.
//
//	host:port#disk    or    host:port#disk.worker
type place struct {
	addr   string
	disk   string
	worker bool
}

const workerMark = ".worker"

func (p place) String() string {
	s := p.addr + "#" + p.disk
	if p.worker {
		s += workerMark
	}
	return s
}

func (p place) server() raft.ServerAddress { return raft.ServerAddress(p.String()) }

// parsePlace is strict: what is not exactly what String writes is refused.
func parsePlace(s raft.ServerAddress) (place, error) {
	addr, rest, _ := strings.Cut(string(s), "#")
	disk, worker := strings.CutSuffix(rest, workerMark)
	p := place{addr: addr, disk: disk, worker: worker}
	if err := p.check(); err != nil {
		return place{}, fmt.Errorf("%q is not a member's place: %w", s, err)
	}
	return p, nil
}

func (p place) check() error {
	if host, port, err := net.SplitHostPort(p.addr); err != nil {
		return err
	} else if host == "" || port == "" || len(p.addr) > maxAddr {
		return errors.New("its address wants a host and a port")
	}
	if b, err := hex.DecodeString(p.disk); err != nil || len(b) != 8 {
		return errors.New("its disk is not 16 hexadecimal digits")
	}
	return nil
}

// maxAddr is the longest host:port: a DNS name of 253 and a port.
const maxAddr = 253 + 1 + 5

// addrOf is the address part of a place, or of what is none.
func addrOf(s raft.ServerAddress) string {
	addr, _, _ := strings.Cut(string(s), "#")
	return addr
}
