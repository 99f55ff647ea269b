package lineage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
)

// Config is what an Index needs.
type Config struct {
	Dir string // of the store, this Index's alone
	// InMemory keeps the store in memory; Dir is then a name only.
	InMemory bool
	// CacheBytes bounds the block cache; 0 is 64 MB.
	CacheBytes int64
	Authorizer Authorizer
	Directory  Directory // may be nil
	Live       Live      // may be nil
	Limits     Limits
	Log        *slog.Logger

	fsys vfs.FS // of tests
}

// Index is the store of hops, productions and accesses, and what answers from it.
// It is a [tail.Sink] and [tail.Resumer] of every ledger's tail.
type Index struct {
	cfg Config
	db  *pebble.DB

	failed  atomic.Pointer[error] // a store that cannot be written takes nothing more
	broken  chan struct{}         // closed with the first failure
	closing chan struct{}         // closed by Close
	opened  atomic.Bool
	feed    *feed         // has locks of its own
	stopped chan struct{} // closed where the store cannot be closed any more
	stop    func()        // closes stopped

	mu       sync.RWMutex
	moment   uint64 // counts what may have changed the store
	flushed  time.Time
	ledgers  map[string]*ledgerState
	byNo     map[ledgerNo]*ledgerState
	copies   map[ledger.CopyKey]*copyState
	from     map[ledger.End][]*copyState
	into     map[ledger.End][]*copyState
	clusters map[string]string // cluster.id by name, from labels
	names    map[string]string // name by cluster.id
	topics   map[topicKey]*topicState
	lives    map[nameKey][]*topicState
}

// ledgerState is one ledger as it is in the store.
type ledgerState struct {
	no      ledgerNo
	cluster string
	topicID ledger.TopicID
	damage  map[int32]damage // the last, by partition
	next    map[int32]int64  // what is stored already ends here, by partition
	tells   bool             // it has had a production or an access
	watched bool             // it has had the progress of a group
	// nameless counts copies that have hops, and whose begins are missing.
	nameless int
}

type damage struct {
	offset int64
	why    string
}

type topicKey struct {
	cluster string // cluster.id
	id      ledger.TopicID
}

type nameKey struct{ cluster, topic string }

// topicState is one life of a topic.
type topicState struct {
	topicKey
	name string
	seen int64 // milliseconds
}

var (
	_ tail.Sink    = (*Index)(nil)
	_ tail.Resumer = (*Index)(nil)
)

// Open opens the store, or makes it, and loads what every query needs. A store
// that cannot be read is an error: it may be deleted, and will be built anew.
func Open(cfg Config) (*Index, error) {
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 64 << 20
	}
	cfg.Limits = cfg.Limits.withDefaults()
	x := &Index{
		cfg: cfg, closing: make(chan struct{}), broken: make(chan struct{}), flushed: time.Now(), feed: newFeed(),
		ledgers: map[string]*ledgerState{}, byNo: map[ledgerNo]*ledgerState{},
		copies: map[ledger.CopyKey]*copyState{}, from: map[ledger.End][]*copyState{}, into: map[ledger.End][]*copyState{},
		clusters: map[string]string{}, names: map[string]string{}, topics: map[topicKey]*topicState{}, lives: map[nameKey][]*topicState{},
	}
	x.stopped = make(chan struct{})
	x.stop = sync.OnceFunc(func() { close(x.stopped) })
	if err := x.openStore(); err != nil {
		return nil, fmt.Errorf("open lineage index: %w", err)
	}
	if err := errors.Join(x.settle(), x.load()); err != nil {
		return nil, errors.Join(fmt.Errorf("open lineage index: %w", err), x.db.Close())
	}
	return x, nil
}

// load reads the small tables into memory.
func (x *Index) load() error {
	err := x.scan(key(0, kindLedger), func(k, v []byte) error {
		if len(v) != 2+16 {
			return errStored
		}
		l := &ledgerState{no: ledgerNo(binary.BigEndian.Uint16(v)), cluster: string(k[3:]), damage: map[int32]damage{}, next: map[int32]int64{}}
		copy(l.topicID[:], v[2:])
		x.ledgers[l.cluster], x.byNo[l.no] = l, l
		return nil
	})
	if err != nil {
		return err
	}
	for _, l := range x.ledgers {
		if err := x.loadLedger(l); err != nil {
			return err
		}
	}
	return nil
}

func (x *Index) loadLedger(l *ledgerState) error {
	err := x.scan(key(l.no, kindCopy), func(k, v []byte) error {
		c := &copyState{ledger: l.no, key: ledger.CopyKey(k[3:])}
		if err := c.decode(v); err != nil {
			return err
		}
		if c.began {
			begin, err := readBack[*ledger.Begin](x.db.Get(key(l.no, kindBegin, c.key[:], u64(int64(c.beginEpoch)))))
			if err != nil {
				return err
			}
			c.begin = begin
			x.label(c)
		}
		if c.nameless = !c.began && c.start >= 0; c.nameless {
			l.nameless++
		}
		if have := x.copies[c.key]; have == nil || !have.began { // else this one is in the wrong ledger
			x.copies[c.key] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = x.scan(key(l.no, kindTopic), func(k, v []byte) error {
		if len(k) != 3+16 || len(v) < 8 {
			return errStored
		}
		x.noteTopic(topicKey{l.cluster, ledger.TopicID(k[3:])}, string(v[8:]), int64(binary.BigEndian.Uint64(v)))
		return nil
	})
	if err != nil {
		return err
	}
	for recorded, had := range map[keyKind]*bool{kindProduction: &l.tells, kindAccess: &l.tells, kindProgress: &l.watched} {
		err := x.scan(key(l.no, recorded), func([]byte, []byte) error {
			*had = true
			return errEnough
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
	}
	err = x.scan(key(l.no, kindNext), func(k, v []byte) error {
		if len(k) != 3+4 || len(v) != 8 {
			return errStored
		}
		l.next[int32(binary.BigEndian.Uint32(k[3:]))] = last64(v)
		return nil
	})
	if err != nil {
		return err
	}
	return x.scan(key(l.no, kindDamage), func(k, v []byte) error {
		l.damage[int32(binary.BigEndian.Uint32(k[3:]))] = damage{last64(k), string(v)}
		return nil
	})
}

// scan calls f for every key with a prefix, in order.
func (x *Index) scan(prefix []byte, f func(k, v []byte) error) error {
	return x.scanFrom(prefix, nil, f)
}

// scanFrom begins after one of the keys, which is given without the prefix.
func (x *Index) scanFrom(prefix, done []byte, f func(k, v []byte) error) error {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	ok := it.First()
	if len(done) > 0 {
		ok = it.SeekGE(append(append(append([]byte(nil), prefix...), done...), 0))
	}
	for ; ok; ok = it.Next() {
		if err := f(it.Key(), it.Value()); err != nil {
			return errors.Join(fmt.Errorf("key %x: %w", it.Key(), err), it.Close())
		}
	}
	if err := it.Close(); err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	return nil
}

// readBack decodes a stored entry from what Get returned.
func readBack[E ledger.Entry](v []byte, closer interface{ Close() error }, err error) (E, error) {
	var none E
	if err != nil {
		return none, fmt.Errorf("read store: %w", err)
	}
	e, err := ledger.ReadEntry(v)
	if err := errors.Join(err, closer.Close()); err != nil {
		return none, fmt.Errorf("read store: %w", err)
	}
	got, ok := e.(E)
	if !ok {
		return none, errStored
	}
	return got, nil
}

// label makes a copy findable by its ends, and its names. mu is held.
func (x *Index) label(c *copyState) {
	b := c.begin
	if !slices.Contains(x.from[b.Copy.Source], c) {
		x.from[b.Copy.Source] = append(x.from[b.Copy.Source], c)
		x.into[b.Copy.Destination] = append(x.into[b.Copy.Destination], c)
	}
	at := b.At.UnixMilli()
	for _, side := range []struct {
		end         ledger.End
		name, topic string
	}{{b.Copy.Source, b.SourceCluster, b.SourceTopic}, {b.Copy.Destination, b.DestinationCluster, b.DestinationTopic}} {
		if side.name != "" {
			x.clusters[side.name], x.names[side.end.Cluster] = side.end.Cluster, side.name
		}
		x.noteTopic(topicKey{side.end.Cluster, side.end.TopicID}, side.topic, at)
	}
}

// noteTopic remembers that a topic's life was spoken of. mu is held.
func (x *Index) noteTopic(k topicKey, name string, at int64) {
	t := x.topics[k]
	if t == nil {
		t = &topicState{topicKey: k, name: name}
		x.topics[k] = t
		n := nameKey{k.cluster, name}
		x.lives[n] = append(x.lives[n], t)
	}
	t.seen = max(t.seen, at)
}

// lock takes mu for what may change the store.
func (x *Index) lock() {
	x.mu.Lock()
	x.moment++
}

// Resume is from where ledger partitions are to be read on. A ledger that is not the one
// that the store knows takes everything with it that came from the old; so does one that
// begins behind what was read of it, or of which a fold was read by half.
func (x *Index) Resume(cluster string, id ledger.TopicID, starts map[int32]int64) map[int32]int64 {
	x.lock()
	defer x.mu.Unlock()
	from := map[int32]int64{}
	l, err := x.ledgerOf(cluster, id)
	for n, start := range starts {
		if err == nil && (l.next[n] < 0 || 0 < l.next[n] && l.next[n] < start) {
			l, err = x.anew(l, cluster, id)
		}
	}
	if err != nil {
		x.fail(err)
		return from
	}
	for n := range starts {
		from[n] = l.next[n]
	}
	return from
}

// ledgerOf finds or makes a ledger's number. mu is held.
func (x *Index) ledgerOf(cluster string, id ledger.TopicID) (*ledgerState, error) {
	old := x.ledgers[cluster]
	if old != nil && old.topicID == id {
		return old, nil
	}
	return x.anew(old, cluster, id)
}

// anew begins with a ledger, and takes away what came from the one before it, if there
// was one. mu is held.
func (x *Index) anew(old *ledgerState, cluster string, id ledger.TopicID) (*ledgerState, error) {
	no := ledgerNo(1)
	for x.byNo[no] != nil {
		no++
	}
	l := &ledgerState{no: no, cluster: cluster, topicID: id, damage: map[int32]damage{}, next: map[int32]int64{}}
	b := x.db.NewBatch()
	defer b.Close()
	if err := b.Set(key(0, kindLedger, []byte(cluster)), append(binary.BigEndian.AppendUint16(nil, uint16(no)), id[:]...), nil); err != nil {
		return nil, fmt.Errorf("store ledger id: %w", err)
	}
	if old != nil {
		lo, hi := binary.BigEndian.AppendUint16(nil, uint16(old.no)), binary.BigEndian.AppendUint16(nil, uint16(old.no)+1)
		if err := b.DeleteRange(lo, hi, nil); err != nil {
			return nil, fmt.Errorf("remove old ledger: %w", err)
		}
		x.cfg.Log.Warn("lineage: what came from a ledger is built anew", "cluster", cluster, "was", old.topicID.String(), "is", id.String())
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return nil, fmt.Errorf("store ledger id: %w", err)
	}
	if old != nil {
		x.forget(old)
	}
	x.ledgers[cluster], x.byNo[no] = l, l
	return l, nil
}

// forget drops from memory what came from a ledger. mu is held.
func (x *Index) forget(l *ledgerState) {
	delete(x.byNo, l.no)
	drop := func(m map[ledger.End][]*copyState, e ledger.End, c *copyState) {
		var keep []*copyState
		for _, have := range m[e] {
			if have != c {
				keep = append(keep, have)
			}
		}
		m[e] = keep
	}
	for k, c := range x.copies {
		if c.ledger != l.no {
			continue
		}
		delete(x.copies, k)
		if c.begin != nil {
			drop(x.from, c.begin.Copy.Source, c)
			drop(x.into, c.begin.Copy.Destination, c)
		}
	}
}
