package controller

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/internal/vfs"
)

// ErrClusterID says that a store belongs to another cluster than was asked for.
var ErrClusterID = errors.New("store belongs to another cluster")

// ErrNodeID says that a store belongs to another node than was asked for.
var ErrNodeID = errors.New("store belongs to another node")

// ErrOffline says that an earlier write failed. What is on disk is then not
// known, so nothing more is written before a restart has read it again.
var ErrOffline = errors.New("metadata store is offline")

// ErrFull says that the disk is full: nothing has changed, and the next update
// tries again.
var ErrFull = errors.New("no room for the metadata")

// fileName is the store's file in its directory.
const fileName = "metadata"

// producerIDBlock is how many producer ids one write reserves.
const producerIDBlock = 1000

// producerIDBits is how many producer ids a cluster has for its own.
const producerIDBits = 40

// Bootstrap is what a new store begins with.
type Bootstrap struct {
	ClusterID string // empty generates one
	NodeID    int32
	Users     []User
	ACLs      []acl.Rule
}

// Controller owns the metadata. All methods are safe for concurrent use.
type Controller struct {
	fs   vfs.FS
	path string

	image atomic.Pointer[Image]
	// rules is closed, and replaced, when the ACL rules change.
	rules atomic.Pointer[chan struct{}]

	mu       sync.Mutex // serialises updates
	offline  error
	reserved int64 // bytes of the reserve, 0 if there is none

	ids struct {
		sync.Mutex
		next, end int64
	}
}

// Exists says whether there is a store in dir, in whatever state.
func Exists(fsys vfs.FS, dir string) (bool, error) {
	_, err := fsys.Size(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a metadata store: %w", err)
	}
	return true, nil
}

// Open reads the store in dir, or creates it, and counts the start. A store that
// exists keeps its own users and rules; b.ClusterID, if set, must be its id, and
// b.NodeID its node.
func Open(fsys vfs.FS, dir string, b Bootstrap) (*Controller, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make metadata directory: %w", err)
	}
	c := &Controller{fs: fsys, path: filepath.Join(dir, fileName)}
	rules := make(chan struct{})
	c.rules.Store(&rules)
	data, err := vfs.ReadFile(fsys, c.path, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.image.Store(&Image{})
		if err := c.Update(func(*Image) ([]Record, error) { return bootstrap(b), nil }); err != nil {
			return nil, fmt.Errorf("create metadata store: %w", err)
		}
		return c, nil
	case err != nil:
		return nil, fmt.Errorf("read metadata store: %w", err)
	}
	records, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read metadata store %s: %w", c.path, err)
	}
	image, err := new(Image).Apply(records...)
	if err != nil {
		return nil, fmt.Errorf("read metadata store %s: %w", c.path, err)
	}
	if b.ClusterID != "" && b.ClusterID != image.ClusterID {
		return nil, fmt.Errorf("%w: it is %s, not %s", ErrClusterID, image.ClusterID, b.ClusterID)
	}
	if image.Node != nil && image.Node.ID != b.NodeID {
		return nil, fmt.Errorf("%w: it is node %d, not %d", ErrNodeID, image.Node.ID, b.NodeID)
	}
	c.image.Store(image)
	c.findReserve()
	err = c.Update(func(i *Image) ([]Record, error) {
		return []Record{{Node: &NodeRecord{b.NodeID}}, {Start: &StartRecord{Count: i.Starts + 1}}}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("count the start: %w", err)
	}
	return c, nil
}

func bootstrap(b Bootstrap) []Record {
	id := b.ClusterID
	if id == "" {
		id = NewTopicID().String() // the same form: 22 characters of base64
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	records := []Record{
		{Cluster: &ClusterRecord{ID: id, Secret: secret}},
		{Node: &NodeRecord{b.NodeID}},
		{Start: &StartRecord{Count: 1}},
		{ProducerIDs: &ProducerIDs{Next: FirstProducerID(id)}},
	}
	for n := range b.Users {
		records = append(records, Record{User: &b.Users[n]})
	}
	for n := range b.ACLs {
		records = append(records, Record{ACL: &b.ACLs[n]})
	}
	return records
}

// NewTopicID returns a random id that Kafka does not reserve and that does not
// begin with a dash, which command lines would take for an option.
func NewTopicID() TopicID {
	for {
		var id TopicID
		rand.Read(id[:])
		id[6] = id[6]&0x0f | 0x40 // a version 4 UUID, as Kafka's are
		id[8] = id[8]&0x3f | 0x80
		if id.String()[0] != '-' {
			return id
		}
	}
}

// FirstProducerID is where a cluster's producer ids begin. Apache Kafka counts
// from 0 and never gets near 2^40; two bundled clusters begin 2^40 apart unless
// 22 bits of their ids' hashes collide. So a batch that was mirrored with its
// producer id cannot be taken for a local producer's.
func FirstProducerID(clusterID string) int64 {
	h := fnv.New64a()
	h.Write([]byte(clusterID))
	const bits = 22
	return int64(1+h.Sum64()%(1<<bits-1)) << producerIDBits
}

// Image is the newest metadata.
func (c *Controller) Image() *Image { return c.image.Load() }

// Offline is why the store takes no changes any more; nil if it does.
func (c *Controller) Offline() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.offline
}

// Update calls change with the newest image and makes the records that it
// returns durable and visible, all or none. No records is no error. Errors of
// change are returned as they are. After a failed write the store is offline:
// [ErrOffline]. On a full disk an update that makes partitions is refused with
// [ErrFull]; others have a reserve, so that a start is counted and room is made.
func (c *Controller) Update(change func(*Image) ([]Record, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.offline != nil {
		return c.offline
	}
	have := c.image.Load()
	records, err := change(have)
	if err != nil || len(records) == 0 {
		return err
	}
	records = append(slices.Clip(records), Record{Revision: &Revision{Count: have.Revision + 1}})
	next, err := have.Apply(records...)
	if err != nil {
		return fmt.Errorf("apply metadata: %w", err)
	}
	data, err := encode(next.Records())
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	if err := c.write(data, next.Partitions() <= have.Partitions()); err != nil {
		if errors.Is(err, ErrFull) {
			return err
		}
		c.offline = fmt.Errorf("%w: %w", ErrOffline, err)
		return c.offline
	}
	c.keepReserve(int64(len(data)))
	c.image.Store(next)
	if !slices.Equal(have.ACLs, next.ACLs) {
		rules := make(chan struct{})
		close(*c.rules.Swap(&rules))
	}
	return nil
}

// RulesChanged is closed when the ACL rules are no longer those of an image that
// is read after this call.
func (c *Controller) RulesChanged() <-chan struct{} { return *c.rules.Load() }

// NextProducerID returns a producer id that was never returned before, over
// restarts too.
func (c *Controller) NextProducerID() (int64, error) {
	c.ids.Lock()
	defer c.ids.Unlock()
	if c.ids.next == c.ids.end {
		var start int64
		err := c.Update(func(i *Image) ([]Record, error) {
			start = i.NextProducerID
			return []Record{{ProducerIDs: &ProducerIDs{Next: start + producerIDBlock}}}, nil
		})
		if err != nil {
			return 0, fmt.Errorf("reserve producer ids: %w", err)
		}
		c.ids.next, c.ids.end = start, start+producerIDBlock
	}
	id := c.ids.next
	c.ids.next++
	return id, nil
}
