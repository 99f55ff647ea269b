package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
	"github.com/waybillhq/waybill/internal/ledger"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/offsets"
)

// ledgers reads the ledger of every declared cluster, once per node, into
// whoever wants its pages.
type ledgers struct {
	fleet     watchedFleet
	directory *directory
	maps      *offsets.Maps
	sinks     []tail.Sink
	log       *slog.Logger

	found bell // rung when a reader has found something, see tail.Config.Found

	mu    sync.Mutex
	tails map[string]*runningTail // by cluster.id
}

// watchedFleet is a fleet whose states can be followed.
type watchedFleet interface {
	proposer
	Watch(ctx context.Context) iter.Seq2[uint64, *cluster.State]
}

type runningTail struct {
	declared *flow.Cluster
	tail     *tail.Tail
	stop     context.CancelFunc
	done     chan struct{}
}

const (
	// lookPause is between two looks at the least: changes come together, and a reader
	// that is overtaken again and again is not begun anew at once.
	lookPause = 50 * time.Millisecond
	// lookAgain is when what could not be done is tried again.
	lookAgain = time.Second
)

// run follows what the clusters are, what their readers find and what the fleet says of
// ledgers, until ctx ends and every reader has stopped.
func (l *ledgers) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	var said bell
	g.Go(func() error {
		var before map[string]cluster.Ledger
		for _, s := range l.fleet.Watch(gctx) {
			if !reflect.DeepEqual(before, s.Ledgers) { // at once where no command has touched them
				before = s.Ledgers
				said.ring()
			}
		}
		return nil
	})
	for {
		clusters, found, saying := l.directory.news.next(), l.found.next(), said.next()
		again := l.look(gctx, g)
		pause(gctx, lookPause)
		select {
		case <-gctx.Done():
			return g.Wait()
		case <-clusters:
		case <-found:
		case <-saying:
		case <-again:
		}
	}
}

// look does what is to be done now. What fails is tried again when the returned channel
// says so, which is nil if nothing has.
func (l *ledgers) look(ctx context.Context, g *errgroup.Group) (again <-chan time.Time) {
	failed := l.reconcile(ctx, g)
	if failed != nil {
		l.log.Warn("ledgers are not all read", "error", failed)
	}
	pinned := l.pin(ctx)
	l.waive()
	if failed != nil || !pinned {
		return time.After(lookAgain)
	}
	return nil
}

// reconcile starts readers of clusters that have none, and ends those of
// clusters that are declared otherwise, or no more. A cluster that is declared
// twice is read by its first name. Only run calls it.
func (l *ledgers) reconcile(ctx context.Context, g *errgroup.Group) error {
	known := map[string]*flow.Cluster{}
	for _, e := range l.directory.list() {
		if id, err := l.directory.id(e.declared.Metadata.Name); err == nil && known[id] == nil {
			known[id] = e.declared
		}
	}
	for id, r := range l.leaving(known) {
		r.stop()
		<-r.done
		l.maps.Attach(id, nil)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for id, declared := range known {
		if l.tails[id] != nil {
			continue
		}
		r, err := l.start(ctx, g, id, declared)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.tails[id] = r
	}
	return errors.Join(errs...)
}

// leaving takes the readers off that are not those of what is known, and those that a
// folding of their ledger has overtaken: others begin with the fold.
func (l *ledgers) leaving(known map[string]*flow.Cluster) map[string]*runningTail {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := map[string]*runningTail{}
	for id, r := range l.tails {
		if known[id] != r.declared || errors.Is(r.tail.State().Err, tail.ErrOvertaken) {
			gone[id] = r
			delete(l.tails, id)
		}
	}
	return gone
}

func (l *ledgers) start(ctx context.Context, g *errgroup.Group, id string, declared *flow.Cluster) (*runningTail, error) {
	conf := tail.Config{
		Dial: func(opts ...kgo.Opt) (*kgo.Client, error) {
			return kafka.NewClient(declared, l.directory.clientID, opts...)
		},
		Cluster: id, Sinks: l.sinks, Log: l.log.With("cluster", declared.Metadata.Name), Refresh: time.Second, Found: l.found.ring,
	}
	if pinned, ok := l.fleet.State().Ledgers[id]; ok {
		var err error
		if conf.TopicID, err = ledger.ParseTopicID(pinned.TopicID); err != nil {
			return nil, fmt.Errorf("pinned ledger of cluster %s: %w", declared.Metadata.Name, err)
		}
	}
	t, err := tail.New(conf)
	if err != nil {
		return nil, fmt.Errorf("ledger of cluster %s: %w", declared.Metadata.Name, err)
	}
	ctx, stop := context.WithCancel(ctx)
	r := &runningTail{declared: declared, tail: t, stop: stop, done: make(chan struct{})}
	l.maps.Attach(id, t)
	g.Go(func() error {
		defer close(r.done)
		defer stop()
		return t.Run(ctx)
	})
	return r, nil
}

// pin has the fleet remember which topic each ledger is, so that a lost one is
// noticed and not taken for a new one. done says that none is left to pin.
func (l *ledgers) pin(ctx context.Context) (done bool) {
	done = true
	for id, s := range l.states() {
		if s.TopicID == (ledger.TopicID{}) {
			continue
		}
		if _, ok := l.fleet.State().Ledgers[id]; ok {
			continue
		}
		if _, err := l.fleet.Propose(ctx, &cluster.PinLedger{ClusterID: id, Ledger: cluster.Ledger{TopicID: s.TopicID.String()}}); err != nil && ctx.Err() == nil {
			l.log.Warn("ledger not pinned yet", "cluster", id, "error", err)
			done = false
		}
	}
	return done
}

// waive tells the maps what damage somebody has taken on himself. A lower offset
// changes nothing, so it may be said again and again.
func (l *ledgers) waive() {
	for id, pinned := range l.fleet.State().Ledgers {
		for partition, w := range pinned.Waived {
			l.maps.Waive(id, partition, w.UpTo)
		}
	}
}

// doubts are what may be lost of a cluster's ledger, by partition.
func (l *ledgers) doubts(id string) []api.LedgerDoubt {
	waived := l.fleet.State().Ledgers[id].Waived
	var all []api.LedgerDoubt
	for _, d := range l.maps.Damages() {
		if d.Cluster != id {
			continue
		}
		doubt := api.LedgerDoubt{Partition: d.Partition, Offset: d.Offset, Reason: d.Why, Copies: d.Copies}
		if w := waived[d.Partition]; d.Waived {
			doubt.WaivedBy = w.By
		}
		all = append(all, doubt)
	}
	return all
}

// Waive answers api.Ledgers. It takes the last damage of a partition only, so
// that nobody waives what he has not seen.
func (l *ledgers) Waive(ctx context.Context, name string, partition int32, upTo int64, by api.Person) error {
	id, err := l.directory.id(name)
	if errors.Is(err, errNoSuchCluster) {
		return api.Errorf(http.StatusNotFound, "%v", err)
	}
	if err != nil {
		return unreachable(err)
	}
	last := int64(-1)
	for _, d := range l.doubts(id) {
		if d.Partition == partition {
			last = d.Offset
		}
	}
	switch {
	case last < 0:
		return api.Errorf(http.StatusNotFound, "nothing is in doubt in partition %d of the ledger of cluster %s", partition, name)
	case last != upTo:
		return api.Errorf(http.StatusConflict, "the last doubt in partition %d of the ledger of cluster %s is at offset %d, not %d", partition, name, last, upTo).
			WithHint("look at it, and name its offset")
	}
	l.log.Warn("damage of a ledger is waived", "cluster", name, "partition", partition, "offset", upTo, "by", by.Name, "reason", by.Reason)
	_, err = l.fleet.Propose(ctx, &cluster.WaiveDamage{
		ClusterID: id, Partition: partition, Waiver: cluster.Waiver{UpTo: upTo, By: by.Name, Reason: by.Reason},
	})
	if err != nil {
		return fleetError(err, 0)
	}
	l.waive()
	return nil
}

var _ api.Ledgers = (*ledgers)(nil)

// states are how the readers stand, by cluster.id.
func (l *ledgers) states() map[string]tail.State {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]tail.State, len(l.tails))
	for id, r := range l.tails {
		all[id] = r.tail.State()
	}
	return all
}

// warm waits until this node knows what the ledgers of all declared clusters say now,
// of those that answer: a copy that moves to a node which has still to read them
// stands still meanwhile.
func (l *ledgers) warm(ctx context.Context, barrier func(context.Context) error) error {
	if err := barrier(ctx); err != nil { // what is declared, too
		return err
	}
	for {
		clusters, found := l.directory.news.next(), l.found.next()
		if l.connected() {
			behind, _ := l.catchUp(ctx)
			maps.DeleteFunc(behind, func(_ string, err error) bool { return errors.Is(err, errConnecting) })
			return errors.Join(slices.Collect(maps.Values(behind))...)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-clusters:
		case <-found:
		}
	}
}

// connected reports whether each declared cluster has been asked, and the ledger of
// each that has answered has been found, or found missing.
func (l *ledgers) connected() bool {
	declared, err := l.fleet.State().Declared(flow.KindCluster)
	if err != nil {
		return true // who follows the declarations says so
	}
	states := l.states()
	for _, d := range declared {
		e, err := l.directory.entry(d.Name())
		if errors.Is(err, errNoSuchCluster) {
			return false // the directory has not heard of it yet
		}
		if err != nil {
			continue // it cannot be asked
		}
		asked, id, failed := l.directory.answer(e)
		if s, found := states[id]; !asked || failed == nil && (!found || s.Status == tail.Connecting) {
			return false
		}
	}
	return true
}

// unread says of each declared cluster whose ledger is not known to its end why.
func (l *ledgers) unread() (list []string) {
	declared, err := l.fleet.State().Declared(flow.KindCluster)
	if err != nil {
		return []string{"the declarations cannot be read: " + err.Error()}
	}
	states := l.states()
	for _, d := range declared {
		e, err := l.directory.entry(d.Name())
		if err != nil {
			list = append(list, d.Name()+": "+err.Error())
			continue
		}
		asked, id, failed := l.directory.answer(e)
		s, found := states[id]
		if why := unreadBecause(asked, failed, s, found); why != "" {
			list = append(list, d.Name()+": "+why)
		}
	}
	return list
}

// unreadBecause says why a ledger is not known to its end, "" if it is or there is none.
func unreadBecause(asked bool, failed error, s tail.State, found bool) string {
	switch {
	case !asked:
		return "the cluster has not answered yet"
	case failed != nil:
		return "the cluster cannot be asked: " + failed.Error()
	case !found:
		return "the ledger was not looked for yet"
	case s.Status == tail.Connecting && s.Err != nil:
		return "the ledger is not found yet: " + s.Err.Error()
	case s.Status == tail.Connecting:
		return "the ledger is not found yet"
	case s.Err != nil:
		return "the ledger cannot be read: " + s.Err.Error()
	}
	var left int64
	for _, p := range s.Partitions {
		left += max(0, p.End-p.Next)
	}
	if left > 0 {
		return fmt.Sprintf("%d offsets of the ledger are not read yet", left)
	}
	return ""
}

// catchUp waits until everything that is in the ledgers now is known, in all of them that
// can be read, at most as long as ctx. It says of which that is not so, by cluster.id: one
// of them keeps nobody from the others. read has all clusters whose ledgers are looked for.
func (l *ledgers) catchUp(ctx context.Context) (behind map[string]error, read map[string]*runningTail) {
	l.mu.Lock()
	read = maps.Clone(l.tails)
	l.mu.Unlock()
	behind = map[string]error{}
	var mu sync.Mutex
	var reading sync.WaitGroup
	for id, r := range read {
		if s := r.tail.State(); s.Status == tail.Connecting { // it is not waited for
			mu.Lock()
			behind[id] = fmt.Errorf("%w: %s", errConnecting, unreadBecause(true, nil, s, true))
			mu.Unlock()
			continue
		}
		reading.Go(func() {
			if err := r.tail.CatchUp(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				behind[id] = err
			}
		})
	}
	reading.Wait()
	return behind, read
}

// errConnecting says that nothing is known of a ledger.
var errConnecting = errors.New("its cluster has not answered the reader yet")
