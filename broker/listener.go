package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
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
}

// listen binds l and finds out what to advertise.
func listen(ctx context.Context, l Listener) (*listener, error) {
	ln := &listener{Listener: l}
	if l.Protocol.tls() {
		var err error
		if ln.tls, err = loadCertificates(l.TLS); err != nil {
			return nil, fmt.Errorf("listener %q: %w", l.Name, err)
		}
	}
	var lc net.ListenConfig
	nl, err := lc.Listen(ctx, "tcp", l.Addr)
	if err != nil {
		return nil, fmt.Errorf("listener %q: %w", l.Name, err)
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
	defer conns.Wait()
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
		if !b.conns.admit(host) {
			b.metrics.ConnectionsRefused.Add(1)
			b.log.Warn("too many connections", "listener", ln.Name, "host", host)
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
		conns.Go(func() {
			defer b.conns.leave(host)
			b.metrics.Connections.Add(1)
			defer b.metrics.Connections.Add(-1)
			c := &conn{b: b, nc: nc, ln: ln, log: b.log.With("listener", ln.Name, "peer", nc.RemoteAddr().String())}
			err := c.serve(ctx)
			b.metrics.closed(err) // also what was answered in the moment of a stop
			if err != nil && ctx.Err() == nil && !errors.Is(err, io.EOF) {
				c.log.Log(ctx, severity(err), "connection closed", "principal", c.client.Principal, "err", err)
			}
		})
	}
}

// severity is how much an operator cares for the end of a connection: clients
// come and go, but what is not a request may be an attack.
func severity(err error) slog.Level {
	switch {
	case errors.Is(err, errFrame):
		return slog.LevelWarn
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// admission counts connections, in all and by host.
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

func (a *admission) admit(host string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.total >= a.max || a.byHost[host] >= a.maxPerHost {
		return false
	}
	a.total++
	a.byHost[host]++
	return true
}

func (a *admission) leave(host string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.total--
	if a.byHost[host]--; a.byHost[host] == 0 {
		delete(a.byHost, host)
	}
}

// startTLS shakes hands and returns the principal that the client's certificate
// stands for.
func (c *conn) startTLS(ctx context.Context) (string, error) {
	tc := tls.Server(c.nc, &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.ln.tls.config(c.log), nil },
	})
	if err := tc.HandshakeContext(ctx); err != nil {
		return "", err
	}
	c.nc = tc
	if certs := tc.ConnectionState().VerifiedChains; len(certs) > 0 && c.ln.Protocol == TLS {
		// Kafka's default: the subject's distinguished name.
		return "User:" + certs[0][0].Subject.String(), nil
	}
	return anonymous, nil
}

// certCheck is how often a listener looks whether its files have changed.
const certCheck = 5 * time.Second

// certificates hands out the listener's TLS configuration and reloads its files
// when they change.
type certificates struct {
	files ListenerTLS

	mu      sync.Mutex
	current *tls.Config
	stamp   string // of the files that were last tried
	checked time.Time
}

func loadCertificates(files ListenerTLS) (*certificates, error) {
	c := &certificates{files: files, checked: time.Now()}
	var err error
	if c.stamp, err = c.stamps(); err != nil {
		return nil, err
	}
	c.current, err = c.load()
	return c, err
}

// config is the configuration for the next handshake. New files that do not load
// are reported once and leave the last good ones in use.
func (c *certificates) config(log *slog.Logger) *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < certCheck {
		return c.current
	}
	c.checked = time.Now()
	stamp, err := c.stamps()
	if err == nil && stamp == c.stamp {
		return c.current
	}
	var next *tls.Config
	if err == nil {
		c.stamp = stamp
		next, err = c.load()
	}
	if err != nil {
		log.Error("reload certificates: the last good ones stay in use", "err", err)
		return c.current
	}
	c.current = next
	return next
}

func (c *certificates) stamps() (string, error) {
	var s string
	for _, name := range []string{c.files.CertFile, c.files.KeyFile, c.files.ClientCAFile} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return "", fmt.Errorf("certificate files: %w", err)
		}
		s += fmt.Sprintf("%s %d %d\n", name, info.Size(), info.ModTime().UnixNano())
	}
	return s, nil
}

func (c *certificates) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if c.files.ClientCAFile != "" {
		pem, err := os.ReadFile(c.files.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("load client ca: %w", err)
		}
		cfg.ClientCAs = x509.NewCertPool()
		if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load client ca: no certificate in %s", c.files.ClientCAFile)
		}
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}
