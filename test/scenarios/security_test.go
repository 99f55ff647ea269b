//go:build unix

package scenarios

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/waybillhq/waybill/acl"
	"github.com/waybillhq/waybill/api"
	"github.com/waybillhq/waybill/internal/raftnode"
)

// What the replicator needs on either side, as docs/fleet.md has it.
var (
	sourceRights = []string{
		"Read Topic:orders", "DescribeConfigs Topic:orders", "Read Topic:__waybill.ledger", "Describe Group:*", "Describe Cluster:kafka-cluster",
	}
	destinationRights = []string{
		"Create Topic:orders", "Read Topic:orders", "Write Topic:orders", "Alter Topic:orders", "DescribeConfigs Topic:orders",
		"Read Topic:__waybill.ledger", "Write Topic:__waybill.ledger", "Create Topic:__waybill.ledger", "DescribeConfigs Topic:__waybill.ledger",
		"Read Group:*", "Describe Cluster:kafka-cluster", "Write TransactionalId:waybill.*", "Describe TransactionalId:waybill.*",
	}
)

// sourceSecurity and destinationSecurity are clusters with TLS, SCRAM and the
// rights that are needed, but for some.
func sourceSecurity(without ...string) *security {
	return &security{acls: rules(sourceRights, without)}
}

func destinationSecurity(without ...string) *security {
	return &security{acls: rules(destinationRights, without)}
}

func rules(all, without []string) []string {
	var out []string
	for _, right := range all {
		if !slices.Contains(without, right) {
			op, resource, _ := strings.Cut(right, " ")
			out = append(out, "User:"+userReplicator+" Allow "+op+" "+resource+" from *")
		}
	}
	return out
}

// A wrong password shows as such, and counts as corrected as soon as the file
// with it is: nothing has to be started again.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, sourceSecurity(), nil)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 100)
	right, err := os.ReadFile(w.us.file("replicator.password"))
	must(t, err)
	must(t, os.WriteFile(w.us.file("replicator.password"), []byte("wrong-password-of-nobody"), 0o600))
	w.declare("orders")
	w.nodes[0].awaitStatus(recovery, "wrong password", func(s *api.Status) error {
		c, err := clusterOf(s, "us")
		if err != nil {
			return err
		}
		if err := trouble("cluster us", c.State, c.Reason, c.ToDo, []string{"unreachable"}, []string{"us", "SASL_AUTHENTICATION_FAILED", "replicator"}, []string{"sasl.username", "sasl.password"}); err != nil {
			return err
		}
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting"}, []string{"cluster us", "SASL_AUTHENTICATION_FAILED"}, []string{"sasl.password"})
	})
	if out := w.nodes[0].cli("status"); !strings.Contains(out, "SASL_AUTHENTICATION_FAILED") || !strings.Contains(out, "to do: check sasl.username") {
		t.Errorf("the command line does not say it:\n%s", out)
	}
	if w.nodes[0].process.logged("wrong-password-of-nobody") {
		t.Error("the log of the node has the wrong password")
	}

	must(t, os.WriteFile(w.us.file("replicator.password"), right, 0o600))
	w.running(2)
	w.exact("orders", 200)
	w.nobodyDied()
}

// issueFor makes a certificate that is valid from one time to another.
func issueFor(t *testing.T, from, to time.Time) func(*raftnode.CA) (cert, key []byte) {
	return func(ca *raftnode.CA) (cert, key []byte) {
		block, _ := pem.Decode(ca.CertPEM)
		parent, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		block, _ = pem.Decode(ca.KeyPEM)
		signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		must(t, err)
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(from.UnixNano()), Subject: pkix.Name{CommonName: "broker"}, NotBefore: from, NotAfter: to,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}, parent, own.Public(), signer)
		must(t, err)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(own)
		must(t, err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	}
}

// Certificates that have expired, or are not valid yet, are named; good ones are
// taken up by brokers and nodes that go on running.
func TestCertificateThatIsNotValidNow(t *testing.T) {
	t.Parallel()
	us, eu := sourceSecurity(), destinationSecurity()
	w := newWorld(t, 1, us, eu)
	w.us.createTopic("orders", 2)
	w.us.produce("orders", 2, 100)
	now := time.Now()
	w.us.useCertificate(issueFor(t, now.Add(-48*time.Hour), now.Add(-24*time.Hour)))
	w.eu.useCertificate(issueFor(t, now.Add(24*time.Hour), now.Add(48*time.Hour)))
	for _, b := range []*broker{w.us, w.eu} { // what it serves from its start on
		b.process.kill()
		b.start()
	}
	w.declare("orders")
	w.nodes[0].awaitStatus(recovery, "certificates", func(s *api.Status) error {
		for _, name := range []string{"us", "eu"} {
			c, err := clusterOf(s, name)
			if err != nil {
				return err
			}
			if err := trouble("cluster "+name, c.State, c.Reason, c.ToDo, []string{"unreachable"}, []string{"certificate has expired or is not yet valid"}, []string{"renew"}); err != nil {
				return err
			}
		}
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"waiting"}, []string{"cluster", "certificate"}, []string{"renew"})
	})

	for _, b := range []*broker{w.us, w.eu} {
		b.useCertificate(b.goodCertificate)
	}
	w.running(2)
	w.exact("orders", 200)
	w.nobodyDied()
}

// TestMissingRight takes one right after the other from the replicator while
// it works, and gives it back.
func TestMissingRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, sourceSecurity("Read Topic:orders"), destinationSecurity())
	w.us.createTopic("orders", 2)
	w.declare("orders")
	w.nodes[0].awaitStatus(recovery, "a topic that nobody may see", func(s *api.Status) error {
		f, err := flowOf(s)
		if err != nil {
			return err
		}
		return trouble("flow", f.State, f.Reason, f.ToDo, []string{"discovering"}, []string{"orders"}, []string{"Read", "cluster us"})
	})
	w.us.grant("Read Topic:orders")
	w.running(2)

	load := w.us.startLoad("orders", 2)
	for _, c := range []struct {
		broker *broker
		right  string
		state  []string
		reason []string
		toDo   []string
	}{
		{w.us, "Read Topic:orders", []string{"failed", "waiting"}, []string{"orders"}, []string{"topic"}},
		{w.eu, "Write Topic:orders", []string{"failed"}, []string{"orders", "TOPIC_AUTHORIZATION_FAILED"}, []string{"WRITE", "destination topic"}},
		{w.eu, "Write TransactionalId:waybill.*", []string{"failed", "waiting"}, []string{"TRANSACTIONAL_ID_AUTHORIZATION_FAILED"}, []string{"transactional ids", "waybill."}},
		{w.eu, "Write Topic:__waybill.ledger", []string{"failed", "waiting"}, []string{"__waybill.ledger", "TOPIC_AUTHORIZATION_FAILED"}, []string{"__waybill.ledger"}},
	} {
		w.keepsUp(2)
		c.broker.revoke(c.right)
		w.nodes[0].awaitStatus(recovery, c.broker.name+" without "+c.right, func(s *api.Status) error {
			f, err := flowOf(s)
			if err != nil || len(f.Topics) != 1 {
				return errors.Join(errNotYet, err)
			}
			return trouble("flow", f.State, f.Reason, f.ToDo, c.state, c.reason, c.toDo)
		})
		c.broker.grant(c.right)
	}
	n := load.end(t)
	w.running(2)
	w.exact("orders", n)
	w.nobodyDied()
}

// grant and revoke change a right of the replicator.
func (b *broker) grant(right string) {
	b.t.Helper()
	res, err := b.admin().CreateACLs(b.ctx(), b.acl(right))
	must(b.t, err)
	for _, r := range res {
		must(b.t, r.Err)
	}
}

func (b *broker) revoke(right string) {
	b.t.Helper()
	res, err := b.admin().DeleteACLs(b.ctx(), b.acl(right))
	must(b.t, err)
	n := 0
	for _, r := range res {
		must(b.t, r.Err)
		n += len(r.Deleted)
	}
	if n != 1 {
		b.t.Fatalf("revoke %s: %d rules are deleted", right, n)
	}
}

func (b *broker) acl(right string) *kadm.ACLBuilder {
	b.t.Helper()
	rule, err := acl.ParseRule(rules([]string{right}, nil)[0])
	must(b.t, err)
	builder := kadm.NewACLs().Allow(rule.Principal).AllowHosts(rule.Host).Operations(kadm.ACLOperation(rule.Operation)).ResourcePatternType(kadm.ACLPattern(rule.PatternType))
	switch rule.ResourceType {
	case acl.Topic:
		builder.Topics(rule.ResourceName)
	case acl.TransactionalID:
		builder.TransactionalIDs(rule.ResourceName)
	default:
		b.t.Fatalf("no builder for %v", rule)
	}
	return builder
}
