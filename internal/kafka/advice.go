package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
)

// Advice says what an operator can do about an error of reaching a cluster, ""
// if there is nothing in particular.
func Advice(err error) string {
	var expired x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var alert tls.AlertError
	var notTLS tls.RecordHeaderError
	var dns *net.DNSError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrWrongCluster):
		return "correct bootstrapServers, or clusterId if the cluster was replaced on purpose"
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return "check sasl.username and the secret that sasl.password refers to; a secret in a file is read again with each connection"
	case errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return "the listener takes another sasl.mechanism"
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return "allow Read and Describe on the topic to the flow's principal, at a destination also Write"
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return "allow Describe on the groups at the source and Read on them at the destination"
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return "allow Describe on the cluster to the flow's principal"
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		return "allow Write and Describe on transactional ids with the prefix waybill."
	case errors.As(err, &expired) && expired.Reason == x509.Expired:
		return "the broker's certificate is not valid now: renew it, or correct the clock of broker or node"
	case errors.As(err, &unknown):
		return "the broker's certificate is not from an authority that tls.caFile trusts"
	case errors.As(err, &host):
		return "the broker's certificate is for another name: correct bootstrapServers or the certificate, or set tls.serverName"
	case errors.As(err, &alert):
		return "the broker refuses this node's certificate: check tls.certFile and tls.keyFile"
	case errors.As(err, &notTLS):
		return "the listener does not speak TLS: take the port that does, or take tls out of the Cluster"
	case errors.As(err, &dns):
		return "correct the host names in bootstrapServers, or the name service"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return "put the file in place on this node, readable for the replicator"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start the brokers, or correct bootstrapServers"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return "the listener ends connections: perhaps it wants TLS or SASL, and the Cluster has none"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "see whether the brokers run, and whether a firewall is between"
	}
	return ""
}

// diagnoseLimit bounds one look for the cause of a failure.
const diagnoseLimit = dialTimeout

// Diagnose connects to each bootstrap server by itself and returns why none of
// them lets this node in, nil if one does. A client's own error often says only
// that it has tried for long enough.
func Diagnose(ctx context.Context, c *flow.Cluster, clientID string) error {
	ctx, cancel := context.WithTimeout(ctx, diagnoseLimit)
	defer cancel()
	servers := c.Spec.BootstrapServers
	results := make(chan error, len(servers))
	for _, addr := range servers {
		go func() { // waited for below
			conn, err := Dial(ctx, c, addr, clientID)
			if err == nil {
				err = conn.Close()
			}
			results <- err
		}()
	}
	var first error
	answered := false
	for range servers {
		err := <-results
		switch {
		case err == nil:
			answered = true
			cancel() // the others do not matter
		case first == nil:
			first = err
		}
	}
	if answered || first == nil {
		return nil
	}
	return fmt.Errorf("cluster %s: %w", c.Metadata.Name, first)
}
