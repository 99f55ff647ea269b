package tail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/internal/ledger"
)

// Errors that end the reading of a ledger. CatchUp returns them, wrapped.
var (
	ErrRecreated    = errors.New("the ledger is another topic than before")
	ErrTruncated    = errors.New("the ledger lost what it had")
	ErrWrongCluster = errors.New("another cluster answers")
	// ErrOvertaken says that pages went before they were read: a new Tail finds what stands
	// for them.
	ErrOvertaken = errors.New("the ledger was folded before it was read")
)

// Errors of CatchUp that end nothing for good.
var (
	// ErrMissing says that the cluster does not show the ledger that it had. A
	// broker that has just started may not know all topics yet, so the reading
	// goes on if it is there again.
	ErrMissing = errors.New("the ledger is gone")
	// ErrEnded says that the Tail's Run has returned: another Tail may read.
	ErrEnded = errors.New("the reading of the ledger has ended")
)

// Position is where a page stands.
type Position struct {
	Cluster   string // cluster.id of the cluster that holds the ledger
	TopicID   ledger.TopicID
	Partition int32
	Offset    int64
	At        time.Time // of the Kafka record
}

func (p Position) String() string {
	return fmt.Sprintf("%s/%s/%d/%d", p.Cluster, ledger.Topic, p.Partition, p.Offset)
}

// A Sink takes what a ledger says. Calls for one ledger partition follow each
// other; calls for different ones may be concurrent.
type Sink interface {
	// Apply takes a page. The sink may keep it and must not change it.
	Apply(pos Position, p *ledger.Page)

	// Fold takes a page of what stands for all that is not in the ledger any more, up to
	// next, from where Apply goes on. They come in order, the last one has the Cut; the sink
	// has nothing of the partition (see [Resumer]).
	Fold(pos Position, next int64, p *ledger.Page)

	// Corrupt says that there is something wrong at pos:
	//
	//   - a *ledger.CorruptError or ledger.ErrVersion: the record cannot be read,
	//     and Apply is not called for it;
	//   - a *ledger.ChainError: pages of its writer before it are missing or altered,
	//     and Apply follows; or it is an old page (see [ledger.ChainError.Old]) that
	//     stands there again, and Apply does not;
	//   - a *GapError: the records from pos on up to its Next do not exist.
	Corrupt(pos Position, err error)
}

// A Resumer is a Sink that remembers. Resume gets where partitions start and returns the
// offset of the first page that it wants of each, 0 for all. Where that is below the start
// it gets a fold from the beginning, so that it has to forget what it has first. It is
// called before the first page of the partitions.
type Resumer interface {
	Resume(cluster string, id ledger.TopicID, starts map[int32]int64) map[int32]int64
}

// GapError says that a ledger partition begins later than it should.
type GapError struct{ Next int64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("ledger records below offset %d do not exist", e.Next)
}

// Config is what a Tail needs.
type Config struct {
	// Dial returns a client of the cluster with opts added. The Tail closes it.
	Dial func(opts ...kgo.Opt) (*kgo.Client, error)
	// Cluster is the cluster.id that must answer, empty for the first that does.
	Cluster string
	// TopicID is the ledger that must be there, zero for the first that is.
	TopicID ledger.TopicID
	// Sinks take the pages, in this order.
	Sinks []Sink
	// Refresh is how often the topic is looked at, for new partitions and for
	// its identity; a fifth of it while there is no topic. 0 is 5 s.
	Refresh time.Duration
	// Found, if set, is called when Status or TopicID has changed. It must return at
	// once and not call the Tail, which is still at it.
	Found func()
	Log   *slog.Logger
}

// Status is how a Tail stands.
type Status string

// The statuses.
const (
	Connecting Status = "connecting" // no answer from the cluster yet
	Absent     Status = "absent"     // the cluster has no ledger yet
	Reading    Status = "reading"
	Stopped    Status = "stopped" // for good: see Err
)

// State is how a Tail stands at one moment.
type State struct {
	Status  Status
	Cluster string         // cluster.id, empty while it is not known
	TopicID ledger.TopicID // zero while there is no topic
	// Err is what keeps it from reading, or the last thing that did while it was
	// not yet read again; nil if all is well.
	Err        error
	Partitions []PartitionState
	Damage     []Damage // oldest first; only the first hundred are kept
	Damaged    int      // how many there were
}

// PartitionState is how far one partition has been delivered.
type PartitionState struct {
	Partition int32
	Next      int64 // all below was delivered
	End       int64 // of the log, as of the last look
}

// Damage is something in the ledger that cannot be right.
type Damage struct {
	Position Position
	Err      error
}

// maxLogged bounds how many errors are remembered as logged.
const maxLogged = 100

// maxDamage bounds what a broken ledger can make a Tail hold.
const maxDamage = 100

// Tail reads one ledger. Its methods are safe for concurrent use.
type Tail struct {
	cfg     Config
	cl      *kgo.Client
	adm     admin
	started chan struct{} // closed by Run
	ended   chan struct{} // closed when Run returns
	hurry   chan struct{} // asks for a refresh before its time

	mu      sync.Mutex
	status  Status
	err     error
	logged  map[string]bool // errors that were logged since all was well
	cluster string
	topicID ledger.TopicID
	parts   map[int32]*partition
	damage  []Damage
	damaged int
	changed chan struct{} // closed and replaced whenever the above changes
}

// New returns a Tail. It does not connect before [Tail.Run].
func New(cfg Config) (*Tail, error) {
	if cfg.Refresh <= 0 {
		cfg.Refresh = 5 * time.Second
	}
	cl, err := cfg.Dial(
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // so that the position passes markers and what they abort
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(500*time.Millisecond),
	)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	t := newTail(cfg)
	t.cl, t.adm = cl, admin{cl}
	return t, nil
}

func newTail(cfg Config) *Tail {
	return &Tail{
		cfg: cfg, started: make(chan struct{}), ended: make(chan struct{}), hurry: make(chan struct{}, 1), status: Connecting, cluster: cfg.Cluster, topicID: cfg.TopicID,
		parts: map[int32]*partition{}, logged: map[string]bool{}, changed: make(chan struct{}),
	}
}

// Run reads until ctx ends and returns nil then. A ledger that cannot be read any
// more does not end it: see [State]. It may be called once.
func (t *Tail) Run(ctx context.Context) error {
	close(t.started)
	defer t.cl.Close()
	defer close(t.ended)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.watch(ctx) })
	g.Go(func() error { return t.read(ctx) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

// watch looks at the topic again and again.
func (t *Tail) watch(ctx context.Context) error {
	for {
		wait := t.cfg.Refresh
		if err := t.refresh(ctx); err != nil && ctx.Err() == nil {
			t.report(err)
		}
		if s := t.State(); s.Status != Reading {
			wait /= 5
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.hurry:
		case <-time.After(wait):
		}
	}
}

// read delivers what comes in.
func (t *Tail) read(ctx context.Context) error {
	for {
		fetches := t.cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		t.deliver(fetches)
		if t.State().Status == Stopped {
			<-ctx.Done()
			return nil
		}
		if fetches.Err() == nil {
			continue
		}
		// A client may give the same error again at once, for as long as it lasts.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(errorPause):
		}
	}
}

// errorPause is between looks at what cannot be fetched.
const errorPause = 250 * time.Millisecond

// Exists says that the cluster has shown its ledger, or that it is known to have
// one.
func (t *Tail) Exists() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.topicID != (ledger.TopicID{})
}

// State is how the Tail stands.
func (t *Tail) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := State{
		Status: t.status, Cluster: t.cluster, TopicID: t.topicID, Err: t.err,
		Damage: append([]Damage(nil), t.damage...), Damaged: t.damaged,
	}
	for _, n := range sortedKeys(t.parts) {
		p := t.parts[n]
		s.Partitions = append(s.Partitions, PartitionState{n, p.next, p.end})
	}
	return s
}

// report keeps an error for all to see; one that ends the reading stays.
func (t *Tail) report(err error) {
	final := errors.Is(err, ErrOvertaken) || errors.Is(err, ErrRecreated) || errors.Is(err, ErrTruncated) || errors.Is(err, ErrWrongCluster)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status == Stopped {
		return
	}
	if errors.Is(t.err, ErrMissing) && !final && !errors.Is(err, ErrMissing) {
		return // what else goes wrong with a topic that is not there follows from that
	}
	if t.err == nil || len(t.logged) > maxLogged {
		clear(t.logged)
	}
	if !t.logged[err.Error()] {
		t.logged[err.Error()] = true
		level := slog.LevelWarn
		if final {
			level = slog.LevelError
		}
		t.cfg.Log.Log(context.Background(), level, "ledger", "cluster", t.cluster, "final", final, "err", err)
	}
	t.err = err
	if final {
		t.status = Stopped
		t.found()
	}
	t.wake()
}

// found says that status or topicID has changed. mu is held.
func (t *Tail) found() {
	if t.cfg.Found != nil {
		t.cfg.Found()
	}
}

// wake tells those who wait that something changed. mu is held.
func (t *Tail) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}
