package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/broker/auth"
	"github.com/waybillhq/waybill/broker/commitlog"
	"github.com/waybillhq/waybill/broker/controller"
	"github.com/waybillhq/waybill/broker/guard"
	"github.com/waybillhq/waybill/broker/replica"
	"github.com/waybillhq/waybill/internal/vfs"
)

// concurrentSyncs bounds the operating system threads that wait for the disk.
const concurrentSyncs = 8

// Broker is a cluster of one node. Make it with [New], serve with [Broker.Run].
type Broker struct {
	cfg       Config
	log       *slog.Logger
	fs        vfs.FS
	lock      releaser
	ctl       *controller.Controller
	auth      *auth.Authenticator
	tokens    *auth.Tokens // nil: no OAUTHBEARER
	listeners map[string]*listener
	table     dispatchTable
	metrics   *Metrics

	conns    *admission
	inFlight *budget // of frames
	answers  *budget
	// decompress has a slot for every batch that is being decompressed.
	decompress chan struct{}
	syncs      *commitlog.SyncGate
	files      *commitlog.Files
	flusher    *replica.Flusher
	sessions   *sessionCache
	// reauthEvery is reauthInterval; tests take longer ones.
	reauthEvery time.Duration
	quotas      *quotas

	// topicsMu serialises changes of topics; readers take the snapshot.
	topicsMu sync.Mutex
	topics   atomic.Pointer[topicSet]
	removed  map[controller.TopicID]string // names of those deleted, with their logs, which the metadata is not told yet; guarded by topicsMu
	// unforgotten has one when a deletion has left something to [Broker.forgetDeleted].
	unforgotten chan struct{}
	// outdated says that the metadata were found to be older than the logs.
	outdated bool
	// settings are replaced under topicsMu as well.
	settings atomic.Pointer[liveSettings]
	loggers  *loggers
	mirrorMu sync.Mutex // serialises changes of mirror topics, and of how many partitions topics have; before topicsMu

	aclCache   atomic.Pointer[aclCache]
	authorizer func() authorizer // as of the newest metadata

	provenance   *provenance // nil if it is off
	coordinators *coordinators

	ready chan struct{}
	ran   atomic.Bool
}

// New binds the listeners, opens the store, recovers every partition and replays the
// coordinators' state. The broker answers nothing before [Broker.Run]; one that
// will not run must be closed.
func New(cfg Config) (_ *Broker, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("broker configuration: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	table, err := wholeTable()
	if err != nil {
		return nil, err
	}
	b := &Broker{
		table:       table,
		cfg:         cfg,
		fs:          cfg.FS,
		listeners:   map[string]*listener{},
		metrics:     newMetrics(table),
		conns:       newAdmission(cfg.Limits),
		inFlight:    newBudget(cfg.Limits.MaxInFlightBytes, int64(cfg.Limits.MaxRequestBytes), framePatience),
		answers:     newBudget(cfg.Limits.MaxAnswerBytes, cfg.Limits.MaxAnswerBytes/2, answerPatience),
		decompress:  make(chan struct{}, concurrentDecompress),
		syncs:       commitlog.NewSyncGate(concurrentSyncs),
		files:       commitlog.NewFiles(openFiles()),
		flusher:     replica.NewFlusher(concurrentSyncs),
		sessions:    newSessionCache(cfg.Limits.MaxFetchSessions),
		reauthEvery: reauthInterval,
		ready:       make(chan struct{}),
		authorizer:  func() authorizer { return everybody{} },
	}
	b.removed, b.unforgotten = map[controller.TopicID]string{}, make(chan struct{}, 1)
	if cfg.Authorizer {
		b.authorizer = func() authorizer { return b.acls() }
	}
	b.loggers = newLoggers(cfg.Log)
	b.log = b.loggers.logger("broker")
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.fs == nil {
		b.fs = vfs.OS{}
	}
	// What can be refused is, before anything is made: a store that is there counts
	// from then on, and the configuration's users and ACLs no more.
	old, err := b.hasStore()
	if err != nil {
		return nil, err
	}
	if cfg.FS == nil {
		if b.lock, err = lockDir(cfg.Dir); err != nil {
			return nil, err
		}
	}
	// Before what takes time, so that clients wait for it in the socket: to be refused
	// some take for the end.
	for _, l := range cfg.Listeners {
		ln, err := listen(context.Background(), l)
		if err != nil {
			return nil, err
		}
		b.listeners[l.Name] = ln
	}
	if err := b.openTokens(); err != nil {
		return nil, err
	}
	if err := b.openStore(old); err != nil {
		return nil, err
	}
	b.settings.Store(b.settingsOf(b.ctl.Image()))
	if err := b.openTopics(); err != nil {
		return nil, err
	}
	if err := b.catchUp(); err != nil {
		return nil, err
	}
	b.resumeMirrors(context.Background())
	if err := b.makeInternalTopics(); err != nil {
		return nil, err
	}
	if b.coordinators, err = openCoordinators(b); err != nil {
		return nil, fmt.Errorf("open coordinators: %w", err)
	}
	b.forgetInterrupted()
	if cfg.Provenance {
		if b.provenance, err = newProvenance(b); err != nil {
			return nil, fmt.Errorf("open provenance: %w", err)
		}
	}
	return b, nil
}

// openTokens reads the keys of tokens.
func (b *Broker) openTokens() (err error) {
	if b.cfg.Tokens == nil {
		return nil
	}
	var warning error
	if b.tokens, warning, err = auth.NewTokens(context.Background(), *b.cfg.Tokens); err != nil {
		return fmt.Errorf("tokens: %w", err)
	}
	if warning != nil {
		b.log.Error("no token is accepted until its keys can be read", "err", warning)
	}
	if b.cfg.Tokens.Unsecured {
		b.log.Warn("tokens that nobody signed are accepted: whoever can connect is whoever he says")
	}
	return nil
}

// openStore opens the metadata, which are old, or filled from the configuration.
func (b *Broker) openStore(old bool) error {
	boot := controller.Bootstrap{ClusterID: b.cfg.ClusterID, NodeID: b.cfg.NodeID}
	if !old {
		var err error
		if boot.Users, err = b.bootstrapUsers(); err != nil {
			return err
		}
		boot.ACLs = b.cfg.BootstrapACLs
	}
	for _, r := range b.cfg.BootstrapACLs {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("bootstrap acl %s: %w", r, err)
		}
	}
	var err error
	switch b.ctl, err = controller.Open(b.fs, b.metadataDir(), boot); {
	case errors.Is(err, controller.ErrCorrupt):
		return fmt.Errorf("open metadata: %w; put it back from a backup of the data folder ('replicator dump' shows what can be read of it; the logs are as they were)", err)
	case errors.Is(err, controller.ErrVersion):
		return fmt.Errorf("open metadata: %w; start the version that wrote it", err)
	case errors.Is(err, controller.ErrClusterID), errors.Is(err, controller.ErrNodeID):
		return fmt.Errorf("open metadata: %w; the ids of cluster and node are for good: set clusterId and nodeId back, or name another data folder", err)
	case err != nil:
		return fmt.Errorf("open metadata: %w", err)
	}
	if old {
		b.warnOfIgnored()
	}
	b.quotas = newQuotas(b.ctl)
	b.auth = auth.New(users{b.ctl}, b.ctl.Image().Secret, b.tokens)
	return nil
}

// users answers from the newest image.
type users struct{ ctl *controller.Controller }

func (u users) Credential(m auth.Mechanism, user string) (auth.Credential, bool) {
	return u.ctl.Image().Credential(m, user)
}

func (u users) Iterations(m auth.Mechanism) []int {
	var all []int
	for key, c := range u.ctl.Image().Users {
		if key.Mechanism == m && !slices.Contains(all, c.Iterations) {
			all = append(all, c.Iterations)
		}
	}
	slices.Sort(all)
	return all
}

// Run serves until ctx ends or a part fails, and closes everything before it
// returns: what is acknowledged is on disk, and what is not yet written of
// provenance is written. It is called once.
func (b *Broker) Run(ctx context.Context) error {
	if b.ran.Swap(true) {
		return errors.New("broker ran before")
	}
	coordinate := b.coordinators.lead()
	// Clients go first; what they depend on outlives them.
	parts, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	inner, innerCtx := errgroup.WithContext(parts)
	part := func(name string, run func(ctx context.Context) error) {
		inner.Go(func() error { return b.guarded(name, func() error { return run(innerCtx) }) })
	}
	part("flusher", b.flusher.Run)
	part("retention", b.retain)
	part("tending of logs", b.tend)
	part("compaction", b.compact)
	part("coordinators", coordinate)
	part("forgetting of deleted topics", b.forgetDeleted)
	if b.tokens != nil {
		part("keys of tokens", func(ctx context.Context) error { return b.tokens.Run(ctx, b.log) })
	}
	if b.provenance != nil {
		part("provenance", b.provenance.run)
	}

	outer, outerCtx := errgroup.WithContext(ctx)
	for _, ln := range b.listeners {
		outer.Go(func() error {
			return b.guarded("listener "+ln.Name, func() error { return b.accept(outerCtx, ln) })
		})
	}
	outer.Go(func() error {
		select {
		case <-innerCtx.Done():
			return errors.New("a part of the broker ended")
		case <-outerCtx.Done():
			return nil
		}
	})
	close(b.ready)
	err := outer.Wait()
	stopParts()
	if cause := inner.Wait(); cause != nil {
		err = cause
	}
	return errors.Join(err, b.Close())
}

// guarded runs a part of the broker. One that panics ends [Broker.Run] as one that fails.
func (b *Broker) guarded(name string, run func() error) error {
	err := guard.Call(run)
	if guard.Is(err) {
		b.log.Error("part of the broker panicked: the broker stops in good order", append([]any{"part", name}, guard.About(err)...)...)
		err = fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// Close releases what New opened. Run calls it; only a broker that never ran
// needs it.
func (b *Broker) Close() error {
	var errs []error
	for _, ln := range b.listeners {
		ln.nl.Close()
	}
	if set := b.topics.Load(); set != nil {
		errs = append(errs, set.close())
	}
	if b.lock != nil {
		errs = append(errs, b.lock.release())
		b.lock = nil
	}
	return errors.Join(errs...)
}

// Ready is closed when the broker answers.
func (b *Broker) Ready() <-chan struct{} { return b.ready }

// Addr is the address that clients of a listener are told, host:port, or "" if
// there is no such listener.
func (b *Broker) Addr(name string) string {
	ln := b.listeners[name]
	if ln == nil {
		return ""
	}
	return joinHostPort(ln.host, ln.port)
}

// ClusterID is the cluster.id.
func (b *Broker) ClusterID() string { return b.ctl.Image().ClusterID }

// aclCache is the rules of one image, indexed.
type aclCache struct {
	rules []acl.Rule
	set   *acl.Set
}

// acls are the rules as of the newest image.
func (b *Broker) acls() *acl.Set {
	rules := b.ctl.Image().ACLs
	have := b.aclCache.Load()
	if have == nil || !sameSlice(have.rules, rules) {
		have = &aclCache{rules, acl.NewSet(rules, b.cfg.SuperUsers)}
		if b.cfg.AllowEveryoneIfNoACL {
			have.set = acl.NewPermissiveSet(rules, b.cfg.SuperUsers)
		}
		b.aclCache.Store(have)
	}
	return have.set
}

// sameSlice says whether two immutable slices are one.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
