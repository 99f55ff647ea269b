package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/waybillhq/waybill/broker/auth"
)

// anonymous is who a client is that did not authenticate.
const anonymous = "User:ANONYMOUS"

// acceptRetry is how long an accept that failed (out of file descriptors) waits.
const acceptRetry = 100 * time.Millisecond

// listener is one bound address.
type listener struct {
	Listener
	nl   net.Listener
	tls  *certificates // nil without TLS
	host string        // as advertised
	port int32

	principals auth.PrincipalMapping
	open       atomic.Int64 // connections
}

// listen binds l, unless that is done, and finds out what to advertise.
func listen(ctx context.Context, l Listener) (*listener, error) {
	ln := &listener{Listener: l}
	var err error
	if ln.principals, err = auth.ParsePrincipalMapping(l.TLS.PrincipalMapping); err != nil {
		return nil, fmt.Errorf("listener %q: %w", l.Name, err)
	}
	if l.Protocol.tls() {
		if ln.tls, err = loadCertificates(l.TLS); err != nil {
			return nil, fmt.Errorf("listener %q: %w", l.Name, err)
		}
	}
	nl := l.Socket
	if nl == nil {
		var lc net.ListenConfig
		if nl, err = lc.Listen(ctx, "tcp", l.Addr); err != nil {
			return nil, fmt.Errorf("listener %q: %w", l.Name, err)
		}
	}
	ln.nl = nl
	advertised := l.Advertised
	if advertised == "" {
		advertised = nl.Addr().String()
	}
	if ln.host, ln.port, err = splitHostPort(advertised); err != nil {
		return nil, errors.Join(fmt.Errorf("listener %q: advertised address: %w", l.Name, err), nl.Close())
	}
	if ip := net.ParseIP(ln.host); ip != nil && ip.IsUnspecified() {
		// Bound to every address: clients are sent to this host's name.
		if ln.host, err = os.Hostname(); err != nil {
			return nil, errors.Join(fmt.Errorf("listener %q: host name to advertise: %w", l.Name, err), nl.Close())
		}
	}
	return ln, nil
}

// accept serves connections until ctx ends, and returns when all have ended.
func (b *Broker) accept(ctx context.Context, ln *listener) error {
	var conns sync.WaitGroup
	ends := newClosings(b.log)
	defer ends.flush()
	// Apart, so that who sends no requests does not hide who guesses passwords. Each is counted in the metrics.
	failures := newClosings(b.log)
	defer failures.flush()
	defer conns.Wait()
	ctx, end := context.WithCancel(ctx)
	defer end() // also when it is not the context that ends this
	var refusals quiet
	stop := context.AfterFunc(ctx, func() { ln.nl.Close() })
	defer stop()
	for {
		nc, err := ln.nl.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %q: %w", ln.Name, err)
		case err != nil:
			b.log.Warn("accept", "listener", ln.Name, "err", err)
			select {
			case <-time.After(acceptRetry):
			case <-ctx.Done():
			}
			continue
		}
		host := hostOf(nc.RemoteAddr())
		if most := int64(ln.MaxConnections); most > 0 && ln.open.Load() >= most {
			err = fmt.Errorf("%w on this listener", errTooManyConnections)
		} else {
			err = b.conns.admit(host)
		}
		if err != nil {
			b.metrics.ConnectionsRefused.Add(1)
			refusals.warn(b.log, "connection refused", "listener", ln.Name, "host", host, "err", err)
			nc.Close()
			continue
		}
		if wait := b.quotas.connect(host, time.Now()); wait > 0 {
			b.metrics.ConnectionsRefused.Add(1)
			conns.Go(func() {
				// Held for a while, so that who tries again at once is slowed (KIP-612).
				defer b.conns.leave(host)
				defer nc.Close()
				timer := time.NewTimer(wait)
				defer timer.Stop()
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
			})
			continue
		}
		ln.open.Add(1)
		conns.Go(func() {
			defer b.conns.leave(host)
			b.metrics.Connections.Add(1)
			defer func() {
				ln.open.Add(-1)
				b.metrics.Connections.Add(-1)
			}()
			c := &conn{b: b, nc: nc, ln: ln, log: b.log.With("listener", ln.Name, "peer", nc.RemoteAddr().String())}
			err := c.serve(ctx)
			b.metrics.closed(err) // also what was answered in the moment of a stop
			// What a stop cuts is nobody's fault; what was not a request and who failed to prove himself is told of all the same.
			faulty := errors.Is(err, auth.ErrFailed) || errors.Is(err, errFrame)
			if err != nil && (ctx.Err() == nil || faulty) && !errors.Is(err, io.EOF) {
				tell := ends.closed
				if errors.Is(err, auth.ErrFailed) {
					tell = failures.closed
				}
				tell(host, severity(err), "listener", ln.Name, "peer", nc.RemoteAddr().String(), "principal", c.client.Principal, "err", err)
			}
		})
	}
}

// severity is how much an operator cares for the end of a connection: clients
// come and go, but what is not a request may be an attack.
func severity(err error) slog.Level {
	switch {
	case errors.Is(err, errFrame), errors.Is(err, errShort):
		return slog.LevelWarn
	case errors.Is(err, errSessionEnded):
		return slog.LevelInfo
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// errTooManyConnections is why a connection is closed unseen.
var errTooManyConnections = errors.New("too many connections")

// admission counts the connections that are open, in all and by host. How fast a
// host may make new ones is a quota (KIP-612).
type admission struct {
	max, maxPerHost int

	mu     sync.Mutex
	total  int
	byHost map[string]int
}

func newAdmission(l Limits) *admission {
	a := &admission{max: l.MaxConnections, maxPerHost: l.MaxConnectionsPerHost, byHost: map[string]int{}}
	if a.maxPerHost <= 0 {
		a.maxPerHost = a.max
	}
	return a
}

// admit takes a connection in, or says why not.
func (a *admission) admit(host string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.total >= a.max:
		return fmt.Errorf("%w: %d", errTooManyConnections, a.total)
	case a.byHost[host] >= a.maxPerHost:
		return fmt.Errorf("%w of this host: %d", errTooManyConnections, a.byHost[host])
	}
	a.total++
	a.byHost[host]++
	return nil
}

func (a *admission) leave(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.byHost[host]--; a.byHost[host] == 0 {
		delete(a.byHost, host)
	}
}

// quiet lets one warning a second through, and says how many it kept back.
type quiet struct {
	last time.Time
	kept int
}

func (q *quiet) warn(log *slog.Logger, msg string, args ...any) {
	if time.Since(q.last) < time.Second {
		q.kept++
		return
	}
	if q.kept > 0 {
		args = append(args, "notLogged", q.kept)
	}
	log.Warn(msg, args...) //nolint:sloglint // the caller's message is constant
	q.last, q.kept = time.Now(), 0
}
