package kafka

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/waybillhq/waybill/flow"
)

func TestAdvice(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string // in the advice; "" for none
	}{
		{nil, ""},
		{errors.New("whatever"), ""},
		{kerr.NotLeaderForPartition, ""},
		{fmt.Errorf("x: %w", kerr.SaslAuthenticationFailed), "sasl.password"},
		{fmt.Errorf("x: %w", ErrWrongCluster), "clusterId"},
		{kerr.TopicAuthorizationFailed, "Read"},
		{kerr.TransactionalIDAuthorizationFailed, "waybill."},
		{x509.CertificateInvalidError{Reason: x509.Expired}, "renew"},
		{x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}, ""},
		{x509.UnknownAuthorityError{}, "tls.caFile"},
		{x509.HostnameError{Certificate: &x509.Certificate{}}, "tls.serverName"},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, "start the brokers"},
		{&net.DNSError{Name: "nowhere"}, "host names"},
		{fmt.Errorf("read: %w", io.EOF), "TLS or SASL"},
		{context.DeadlineExceeded, "firewall"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "firewall"},
	} {
		got := Advice(c.err)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v: advice is %q, want %q in it", c.err, got, c.want)
		}
	}
}

// accepting is an address at which every connection is given to serve.
func accepting(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
		}
	}()
	return l.Addr().String()
}

func TestDiagnose(t *testing.T) {
	hangUp := accepting(t, func(c net.Conn) { c.Close() })
	silent := accepting(t, func(net.Conn) {})
	for _, c := range []struct {
		name    string
		servers []string
		tls     *flow.TLS
		want    string
	}{
		{"nobody listens", []string{"127.0.0.1:1"}, nil, "connection refused"},
		{"it hangs up", []string{hangUp}, nil, "connect to " + hangUp},
		{"no TLS there", []string{hangUp}, &flow.TLS{}, "connect to " + hangUp},
		{"no such file", []string{hangUp}, &flow.TLS{CAFile: "/nowhere/ca.pem"}, "tls caFile"},
		{"it says nothing", []string{silent}, nil, "connect to " + silent},
	} {
		t.Run(c.name, func(t *testing.T) {
			limit := 30 * time.Second
			if c.servers[0] == silent {
				limit = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			cluster := &flow.Cluster{Metadata: flow.Metadata{Name: "eu"}, Spec: flow.ClusterSpec{BootstrapServers: c.servers, TLS: c.tls}}
			err := Diagnose(ctx, cluster, "test")
			if err == nil || !strings.Contains(err.Error(), "cluster eu: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if Advice(err) == "" {
				t.Errorf("no advice for %v", err)
			}
		})
	}
}

func TestIdentifyNamesTheCause(t *testing.T) {
	cluster := &flow.Cluster{Metadata: flow.Metadata{Name: "eu"}, Spec: flow.ClusterSpec{BootstrapServers: []string{"127.0.0.1:1"}}}
	cl, err := NewClient(cluster, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = Identify(t.Context(), cluster, cl)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("error is %v, want one that wraps %v", err, syscall.ECONNREFUSED)
	}
}
