package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/cluster"
	"github.com/waybillhq/waybill/cmd/replicator/supervisor"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/ledger/tail"
	"github.com/waybillhq/waybill/internal/raftnode"
	"github.com/waybillhq/waybill/lineage"
	"github.com/waybillhq/waybill/mirror"
	"github.com/waybillhq/waybill/offsets"
	"github.com/waybillhq/waybill/verify"
)

// node is one replicator process: its parts in the order in which they depend
// on each other.
type node struct {
	file      nodeFile
	inForce   atomic.Pointer[nodeFile] // file with the users of the last reload
	log       *slog.Logger
	fleet     *cluster.Node
	listener  net.Listener // of the HTTP API
	directory *directory   // clients of the declared clusters
	maps      *offsets.Maps
	index     *lineage.Index
	ledgers   *ledgers // feed maps and index
	work      *work    // copies, duties, runbooks
	flows     *flows
	audits    *audits
	users     *api.Users
	secrets   *secrets
	clean     *cleanLog // what is logged goes through it
	recent    *recent   // the end of that
	started   time.Time

	notifier    *supervisor.Notifier
	readiness   readiness
	raftAnswers supervisor.Answers
	peers       *http.ServeMux // what other nodes ask of this one
	server      *http.Server
}

// runNode runs a node until ctx ends; then its work is moved to others first.
func runNode(ctx context.Context, p nodeProcess) error {
	addressFile := p.addressFile
	n, err := newNode(ctx, p)
	if err != nil {
		return err
	}
	if addressFile != "" {
		lines := fmt.Sprintf("peer %s\napi %s\n", n.fleet.Addr(), n.listener.Addr())
		if err := writeFile(addressFile, []byte(lines)); err != nil {
			return errors.Join(err, n.close())
		}
	}
	n.log.Info("started", "peer", n.fleet.Addr(), "api", n.listener.Addr().String())
	return errors.Join(n.run(ctx, p.reload), n.close())
}

// nodeProcess is what a process is to run.
type nodeProcess struct {
	file        nodeFile
	users       []api.User
	addressFile string
	log         *slog.Logger
	clean       *cleanLog // where log writes to
	recent      *recent
	reload      func() (nodeFile, []api.User, error) // reads the file again; nil if there is none
}

func newNode(ctx context.Context, p nodeProcess) (_ *node, err error) {
	f, log := p.file, p.log.With("node", p.file.Name)
	n := &node{
		file: f, log: log, users: api.NewUsers(p.users), peers: http.NewServeMux(), secrets: &secrets{users: p.users},
		clean: p.clean, recent: p.recent, started: time.Now(), notifier: supervisor.New(log),
	}
	n.inForce.Store(&f)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	n.clean.follow(n.secretValues)
	n.directory = newDirectory("waybill-"+f.Name, log)
	n.maps = offsets.NewMaps()
	if n.index, err = lineage.Open(lineage.Config{
		Dir: filepath.Join(f.DataDir, "lineage"), Authorizer: rights{n.directory}, Directory: names{n.directory}, Live: newLive(n), Log: log,
	}); err != nil {
		return nil, err
	}
	n.ledgers = &ledgers{
		fleet: n.fleet, directory: n.directory, maps: n.maps, sinks: []tail.Sink{n.maps, n.index}, log: log, tails: map[string]*runningTail{},
	}
	n.flows = &flows{fleet: n.fleet, directory: n.directory, ledgers: n.ledgers}
	if err := n.openWork(); err != nil {
		return nil, err
	}
	operations := &operations{node: n}
	n.audits.handle(n.peers)
	operations.handle(n.peers)
	if err := n.openAPI(operations); err != nil {
		return nil, err
	}
	return n, nil
}

// open binds the node's addresses and opens what it has on disk of the fleet.
func (n *node) open(ctx context.Context) (err error) {
	if n.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", n.file.API.Address); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	if n.fleet, err = openFleet(n.file, n.listener.Addr().String(), n.peers, n.log, func(by cluster.Author, why error) { n.audits.noteRefusedJoin(by, why) }); err != nil {
		return err
	}
	n.audits, err = openAudits(auditDir(n.file), n.file.Name, n.fleet, n.log)
	return err
}

// openWork makes what does this node's share of the fleet's work.
func (n *node) openWork() (err error) {
	groups := &groups{fleet: n.fleet, directory: n.directory, maps: n.maps, log: n.log}
	verifications := &verifications{fleet: n.fleet, directory: n.directory, maps: n.maps, entries: ledgerEntries{n.index, n.maps}, log: n.log}
	runbooks := &runbooks{
		fleet: n.fleet, log: n.log,
		actions: &actions{fleet: n.fleet, directory: n.directory, groups: groups, flows: n.flows, maps: n.maps, verifications: verifications},
	}
	n.work = &work{
		fleet: n.fleet, fleetName: n.file.Fleet, maps: n.maps, directory: n.directory, ledgers: n.ledgers,
		groups: groups, runbooks: runbooks, verifications: verifications, log: n.log,
	}
	n.work.metrics, err = newNodeMetrics(n.file.Name, n.work.copies, n.work.counters, n.raft, n.verified)
	return err
}

// openAPI makes the server of the HTTP API, of whose parts api declares what it
// needs.
func (n *node) openAPI(operations *operations) error {
	claims := &claims{fleet: n.file.Fleet, directory: n.directory, maps: n.maps, log: n.log}
	var protocols http.Protocols
	protocols.SetHTTP1(true) // HTTP/2 would be half a megabyte of the binary, and more to attack
	n.server = &http.Server{
		Protocols: &protocols,
		Handler: api.New(api.Config{
			Users: n.users, State: freshness{n.fleet, n.started}, Audit: n.audits, Operations: operations,
			Objects: &objects{n.fleet, claims}, Flows: n.flows, Fleet: &nodes{n.fleet, n.log}, Membership: &membership{n.fleet},
			Groups: n.work.groups, Runbooks: n.work.runbooks, Verifications: n.work.verifications, Ledgers: n.ledgers,
			Lineage: &eventLineage{folds: n.folds(), index: n.index, ledgers: n.ledgers, directory: n.directory, searcher: newSearcher(n.directory)},
			Metrics: n.work.metrics.handler, Ready: n.ready,
		}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelWarn),
	}
	if n.file.API.CertFile == "" {
		return nil
	}
	c, err := loadCertificate(n.file.API.CertFile, n.file.API.KeyFile, n.log)
	if err != nil {
		return err
	}
	n.server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	return nil
}

func (n *node) secretValues() []string { return n.secrets.values(n.fleet.State()) }

func (n *node) folds() *folds {
	return &folds{fleet: n.fleet, name: n.file.Name, group: n.file.Fleet, directory: n.directory, log: n.log, busy: map[string]bool{}}
}

// openFleet opens a node's part in the fleet; refused, if not nil, is told of nodes that
// are not let in.
func openFleet(f nodeFile, apiAddr string, peers http.Handler, log *slog.Logger, refused func(cluster.Author, error)) (*cluster.Node, error) {
	conf, err := fleetConfig(f, apiAddr, peers, log)
	if err != nil {
		return nil, err
	}
	conf.JoinRefused = refused
	fleet, err := cluster.Open(conf)
	if errors.Is(err, raftnode.ErrGroupRuns) {
		err = &codedError{err, exitConflict, fmt.Sprintf("take bootstrap: true out of its file, and let it join: 'replicator fleet remove %s' at another node, then peer.join and a new token in peer.tokenFile", f.Name)}
	}
	if err != nil && conf.Credentials == nil && conf.Token == "" && f.Peer.TokenFile != "" {
		err = fmt.Errorf("%w (peer.tokenFile %s is not there)", err, f.Peer.TokenFile)
	}
	return fleet, err
}

// fleetConfig is a node's part in the fleet as its file has it. A join token is read
// if it is still there: once a node has its certificate, nobody needs it.
func fleetConfig(f nodeFile, apiAddr string, peers http.Handler, log *slog.Logger) (cluster.Config, error) {
	conf := cluster.DefaultConfig()
	if f.Peer.CertFile != "" {
		credentials, err := raftnode.LoadCredentials(f.Peer.CAFile, f.Peer.CertFile, f.Peer.KeyFile)
		if err != nil {
			return conf, fmt.Errorf("peer certificates: %w", err)
		}
		conf.Credentials = credentials
	}
	if f.Peer.TokenFile != "" {
		token, err := os.ReadFile(f.Peer.TokenFile)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return conf, fmt.Errorf("peer.tokenFile: %w", err)
		}
		conf.Token = string(token)
	}
	conf.Name, conf.Dir = f.Name, filepath.Join(f.DataDir, "raft")
	conf.Listen, conf.Advertise = f.Peer.Address, f.Peer.Advertise
	conf.Bootstrap, conf.Join, conf.Worker = f.Peer.Bootstrap, f.Peer.Join, f.Peer.Worker
	conf.APIAddr, conf.Version, conf.Logger = apiAddr, version, log
	conf.Region, conf.Rack, conf.Labels = f.Region, f.Rack, f.Labels
	conf.PeerHandler, conf.Author = peers, authorOn(f.Name)
	return conf, nil
}

// run owns every goroutine of the node. When ctx ends the fleet moves this
// node's work away, for which everything else must still run; then the rest ends.
func (n *node) run(ctx context.Context, reload func() (nodeFile, []api.User, error)) error {
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, live := errgroup.WithContext(live)
	g.Go(func() error {
		defer stop()
		fleetCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(live, cancel)() // something else has failed
		return n.fleet.Run(fleetCtx)
	})
	g.Go(func() error { return n.audits.run(live) })
	g.Go(func() error { n.catchUp(live); return nil })
	g.Go(func() error { return n.announce(live, ctx) })
	g.Go(func() error { return n.reloads(live, reload) })
	g.Go(func() error { return n.directory.run(live) })
	g.Go(func() error { return n.followDeclarations(live) })
	g.Go(func() error { return n.ledgers.run(live) })
	g.Go(func() error { return n.work.run(live) })
	g.Go(func() error { return n.serve(live) })
	return g.Wait()
}

// followDeclarations tells the directory which clusters there are.
func (n *node) followDeclarations(ctx context.Context) error {
	var seen uint64
	for _, s := range n.fleet.Watch(ctx) {
		if s.ObjectsRevision == seen {
			continue
		}
		seen = s.ObjectsRevision
		n.clean.again()
		objects, err := s.Declared(flow.KindCluster)
		if err != nil {
			n.log.Error("declarations are not followed", "error", err)
			continue
		}
		var clusters []*flow.Cluster
		for _, o := range objects {
			clusters = append(clusters, o.Cluster)
		}
		n.directory.reconcile(clusters)
	}
	return nil
}

// answersToEnd is how long the requests under way have when a node stops. Streams end
// by themselves then.
const answersToEnd = 5 * time.Second

func (n *node) serve(ctx context.Context) error {
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		n.index.EndStreams()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), answersToEnd)
		defer cancel()
		if n.server.Shutdown(bounded) != nil {
			n.server.Close()
		}
	})()
	var err error
	if n.server.TLSConfig != nil {
		err = n.server.ServeTLS(n.listener, "", "")
	} else {
		err = n.server.Serve(n.listener)
	}
	if errors.Is(err, http.ErrServerClosed) || ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve the API: %w", err)
}

func (n *node) close() error {
	var errs []error
	if n.listener != nil {
		if err := n.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if n.fleet != nil {
		errs = append(errs, n.fleet.Close())
	}
	n.audits.close()
	if n.index != nil {
		errs = append(errs, n.index.Close())
	}
	return errors.Join(errs...)
}

func (n *node) raft() (bool, uint64) {
	_, revision := n.fleet.Current()
	return n.fleet.Leader() == n.fleet.Name(), revision
}

// verified are the verifications of the flows whose duty is this node's. One that
// cannot be read is for those who ask for it by name.
func (n *node) verified() (all []*verify.Report) {
	s := n.fleet.State()
	for _, name := range sortedNames(s.Flows) {
		if s.Flows[name].Duty.Node != n.fleet.Name() {
			continue
		}
		if r, err := verificationOf(s, name, time.Now()); err == nil && r != nil {
			all = append(all, r)
		}
	}
	return all
}

// copies are those of the present life.
func (w *work) copies() []mirror.CopyStatus {
	if m := w.manager.Load(); m != nil {
		return m.Status()
	}
	return nil
}

// counters are those of the present life, nil if there is none.
func (w *work) counters() *mirror.Metrics {
	if m := w.manager.Load(); m != nil {
		return m.Metrics()
	}
	return nil
}
