package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/waybillhq/waybill/flow"
)

// Software is the client software name that replicators report (KIP-511).
const Software = "waybill-replicator"

// ErrWrongCluster says that another cluster answers where a pinned one should.
var ErrWrongCluster = errors.New("another cluster answers at these addresses")

// dialTimeout bounds TCP and TLS together; a broker on another continent needs
// three round trips of 0.3 s.
const dialTimeout = 5 * time.Second

// NewClient returns a client of cluster c. It does not connect: a cluster that
// cannot be reached shows in the first request. The caller closes it.
func NewClient(c *flow.Cluster, clientID string, opts ...kgo.Opt) (*kgo.Client, error) {
	all := []kgo.Opt{
		kgo.SeedBrokers(c.Spec.BootstrapServers...),
		kgo.ClientID(clientID),
		kgo.SoftwareNameAndVersion(Software, "1"),
		kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.Dialer(dialer(c)),
	}
	if c.Spec.SASL != nil {
		mech, err := mechanism(c.Spec.SASL)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Metadata.Name, err)
		}
		all = append(all, kgo.SASL(mech))
	}
	cl, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("client of cluster %s: %w", c.Metadata.Name, err)
	}
	return cl, nil
}

// dialer connects with or without TLS as the cluster says; certificate files are
// read for each connection, so that a rotated one counts from the next on.
func dialer(c *flow.Cluster) func(context.Context, string, string) (net.Conn, error) {
	plainDialer := &net.Dialer{Timeout: dialTimeout}
	if c.Spec.TLS == nil {
		return plainDialer.DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conf, err := TLSConfig(c.Spec.TLS)
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{NetDialer: plainDialer, Config: conf}).DialContext(ctx, network, addr)
	}
}

// TLSConfig builds the client's side of TLS from files. TLS 1.2 is the least
// that it speaks, and the server's name is always checked.
func TLSConfig(t *flow.TLS) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls caFile: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls caFile %s: no certificate in it", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls certFile: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// mechanism authenticates with a secret that is resolved at each handshake.
func mechanism(s *flow.SASL) (sasl.Mechanism, error) {
	scramAuth := func(context.Context) (scram.Auth, error) {
		pass, err := ResolveSecret(s.Password)
		return scram.Auth{User: s.Username, Pass: pass}, err
	}
	switch s.Mechanism {
	case "SCRAM-SHA-512":
		return scram.Sha512(scramAuth), nil
	case "SCRAM-SHA-256":
		return scram.Sha256(scramAuth), nil
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := ResolveSecret(s.Password)
			return plain.Auth{User: s.Username, Pass: pass}, err
		}), nil
	}
	return nil, fmt.Errorf("sasl mechanism %q is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", s.Mechanism)
}

// ClusterID asks the cluster for its cluster.id.
func ClusterID(ctx context.Context, cl *kgo.Client) (string, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none: only the cluster
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return "", fmt.Errorf("read cluster id: %w", err)
	}
	if resp.ClusterID == nil || *resp.ClusterID == "" {
		return "", errors.New("read cluster id: the cluster reports none")
	}
	return *resp.ClusterID, nil
}

// How long a cluster may take to say its id: at first, and when its brokers have
// let this node in meanwhile. A client may spend all of it on trying again.
const (
	identifyFirst = 2 * time.Second
	identifyLimit = 6 * time.Second
)

// Identify is [ClusterID], checked against the id that the declaration pins. It
// returns an error that wraps [ErrWrongCluster] if they differ, and otherwise the
// cause that [Diagnose] finds.
func Identify(ctx context.Context, c *flow.Cluster, cl *kgo.Client) (string, error) {
	ask := func(limit time.Duration) (string, error) {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return ClusterID(bounded, cl)
	}
	id, err := ask(identifyFirst)
	if err != nil && ctx.Err() == nil {
		if cause := Diagnose(ctx, c, Software); cause != nil {
			return "", cause
		}
		id, err = ask(identifyLimit)
	}
	if err != nil {
		return "", fmt.Errorf("cluster %s: %w", c.Metadata.Name, err)
	}
	if want := c.Spec.ClusterID; want != "" && want != id {
		return "", fmt.Errorf("cluster %s: %w: cluster.id is %s, the declaration says %s", c.Metadata.Name, ErrWrongCluster, id, want)
	}
	return id, nil
}
