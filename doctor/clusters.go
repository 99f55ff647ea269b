package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// Limit bounds a look at all clusters, perServer at one server of one.
const (
	Limit     = 60 * time.Second
	perServer = 10 * time.Second
)

// clientID is how the doctor calls itself to clusters.
const clientID = "replicator-doctor"

// mostServers bounds how many brokers of a cluster are looked at.
const mostServers = 64

// Clusters looks at every cluster among the objects, and at the rights that the
// flows and runbooks among them need there.
func Clusters(ctx context.Context, objects []flow.Object, now time.Time) []Finding {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	var clusters []*flow.Cluster
	var flows []*flow.ReplicationFlow
	var runbooks []*flow.Runbook
	for _, o := range objects {
		if o.Cluster != nil {
			clusters = append(clusters, o.Cluster)
		}
		if o.Flow != nil {
			flows = append(flows, o.Flow)
		}
		if o.Runbook != nil {
			runbooks = append(runbooks, o.Runbook)
		}
	}
	results := make([]*look, len(clusters))
	var looking sync.WaitGroup
	for i, c := range clusters {
		results[i] = &look{cluster: c, where: "cluster " + c.Metadata.Name, now: now}
		looking.Go(func() { results[i].all(ctx) })
	}
	looking.Wait()
	looks := map[string]*look{}
	var findings []Finding
	for _, l := range results {
		looks[l.cluster.Metadata.Name] = l
		findings = append(findings, l.findings...)
	}
	for _, f := range flows {
		findings = append(findings, flowFindings(ctx, f, looks)...)
	}
	for _, r := range runbooks {
		findings = append(findings, runbookFindings(ctx, r, flows, looks)...)
	}
	return findings
}

// look is what is found of one cluster.
type look struct {
	cluster *flow.Cluster
	where   string
	now     time.Time

	findings []Finding

	versions versions
	topics   []string // that are listed
	id       string
}

func (l *look) add(f ...Finding) { l.findings = append(l.findings, f...) }

// all goes from names to rights. What needs something that does not work is left
// out: it would only say the same again.
func (l *look) all(ctx context.Context) {
	if !l.references() {
		return
	}
	entry, reached := "", 0
	for _, addr := range l.cluster.Spec.BootstrapServers {
		if l.server(ctx, "bootstrap server "+addr, addr) {
			if reached++; entry == "" {
				entry = addr
			}
		}
	}
	if entry == "" {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, perServer)
	defer cancel()
	conn, err := kafka.Dial(bounded, l.cluster, entry, clientID)
	if err != nil {
		l.add(found(Reach, l.where, Error, "%v", err).todo("%s", advice(err)))
		return
	}
	defer conn.Close()
	l.mechanisms(bounded, entry)
	l.speaks(bounded, conn)
	l.brokers(ctx, conn)
	l.add(found(Clock, l.where, Unknown, "Kafka's protocol does not tell a broker's clock").todo("watch the clocks of the brokers where they run (NTP)"))
}

func advice(err error) string {
	if a := kafka.Advice(err); a != "" {
		return a
	}
	return "see the brokers' logs"
}

// references looks at the files and secrets that the declaration names, on this
// machine.
func (l *look) references() bool {
	before := len(l.findings)
	spec := l.cluster.Spec
	if spec.SASL != nil {
		if secret, err := kafka.ResolveSecret(spec.SASL.Password); err != nil {
			l.add(found(Secrets, l.where, Error, "%v", err).todo("put it in place on every node: a flow may run on any of them"))
		} else if secret == "" {
			l.add(found(Secrets, l.where, Error, "sasl.password: %s is empty", spec.SASL.Password).todo("put the password there"))
		}
	}
	if spec.TLS != nil {
		if _, err := kafka.TLSConfig(spec.TLS); err != nil {
			l.add(found(TLS, l.where, Error, "%v", err).todo("%s", advice(err)))
		}
		if spec.TLS.CertFile != "" {
			l.add(CertificateFile(l.where+": client certificate", spec.TLS.CertFile, "", "", l.now)...)
		}
	} else if spec.SASL != nil && spec.SASL.Mechanism == "PLAIN" {
		l.add(found(SASL, l.where, Warning, "PLAIN without TLS: the password travels in the clear").todo("use TLS, or SCRAM"))
	}
	for _, f := range l.findings[before:] {
		if f.Level == Error {
			return false
		}
	}
	return true
}

// server looks at one address from its name to the end of the handshake, and says
// whether this client is let in.
func (l *look) server(ctx context.Context, what, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, perServer)
	defer cancel()
	where := l.where + ", " + what
	if f := Host(ctx, where, addr); f.Level != OK {
		l.add(f)
		if f.Level == Error {
			return false
		}
	}
	if l.cluster.Spec.TLS != nil && !l.secure(ctx, where, addr) {
		return false
	}
	began := time.Now()
	conn, err := kafka.Dial(ctx, l.cluster, addr, clientID)
	if err != nil {
		check := Reach
		if errors.Is(err, kerr.SaslAuthenticationFailed) || errors.Is(err, kerr.UnsupportedSaslMechanism) || errors.Is(err, kerr.IllegalSaslState) {
			check = SASL
		}
		l.add(found(check, where, Error, "%v", err).todo("%s", advice(err)))
		return false
	}
	_ = conn.Close()
	l.add(found(Reach, where, OK, "lets this client in (%s for connection, TLS and SASL)", round(time.Since(began))))
	return true
}

// secure looks at the chain that a server shows, whether or not it is trusted.
func (l *look) secure(ctx context.Context, where, addr string) bool {
	conf, err := kafka.TLSConfig(l.cluster.Spec.TLS)
	if err != nil {
		return false // said before
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	var chain []*x509.Certificate
	var refused error
	probe := conf.Clone()
	probe.ServerName = host
	if conf.ServerName != "" {
		probe.ServerName = conf.ServerName
	}
	probe.InsecureSkipVerify = true //nolint:gosec // nothing is sent on it: the chain is judged below and by every other connection
	probe.VerifyConnection = func(s tls.ConnectionState) error {
		chain, refused = s.PeerCertificates, verified(s, conf, host)
		return nil
	}
	conn, err := (&tls.Dialer{Config: probe}).DialContext(ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	switch {
	case err != nil && len(chain) == 0:
		l.add(found(Reach, where, Error, "%v", err).todo("%s", advice(err)))
		return false
	case refused != nil:
		l.add(found(TLS, where, Error, "%s: %v", named(chain[0]), refused).todo("%s", advice(refused)))
		return false
	}
	l.add(lifetime(where, "renew the broker's certificate", chain, l.now))
	return true
}

// mechanisms asks which SASL mechanisms a listener offers.
func (l *look) mechanisms(ctx context.Context, addr string) {
	open := *l.cluster
	open.Spec.SASL = nil
	conn, err := kafka.Dial(ctx, &open, addr, clientID)
	if err != nil {
		return // it was reached a moment ago, and says the rest elsewhere
	}
	defer conn.Close()
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = "WHICH" // none has this name, so the answer lists all
	answer, err := conn.Request(ctx, hello, 1)
	used := "none"
	if l.cluster.Spec.SASL != nil {
		used = l.cluster.Spec.SASL.Mechanism
	}
	if err != nil {
		l.add(found(SASL, l.where, Unknown, "uses %s; what is offered was not told: %v", used, err))
		return
	}
	offered := answer.(*kmsg.SASLHandshakeResponse).SupportedMechanisms
	slices.Sort(offered)
	if len(offered) == 0 {
		l.add(found(SASL, l.where, OK, "the listener offers no SASL; this client uses %s", used))
		return
	}
	f := found(SASL, l.where, OK, "uses %s; the listener offers %s", used, strings.Join(offered, ", "))
	if used == "PLAIN" || used == "SCRAM-SHA-256" {
		if slices.Contains(offered, "SCRAM-SHA-512") {
			f.ToDo = "SCRAM-SHA-512 would be stronger"
		}
	}
	l.add(f)
}

// brokers looks at every broker under the address that it advertises.
func (l *look) brokers(ctx context.Context, conn *kafka.Conn) {
	bounded, cancel := context.WithTimeout(ctx, perServer)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest() // nil topics: all
	answer, err := conn.Request(bounded, req, 12)
	if err != nil {
		l.add(found(Reach, l.where, Error, "list the brokers: %v", err).todo("%s", advice(err)))
		return
	}
	meta := answer.(*kmsg.MetadataResponse)
	if meta.ClusterID != nil {
		l.id = *meta.ClusterID
	}
	l.identity()
	for _, t := range meta.Topics {
		if t.Topic != nil && t.ErrorCode == 0 && !t.IsInternal {
			l.topics = append(l.topics, *t.Topic)
		}
	}
	slices.Sort(l.topics)
	l.partitions(meta)
	brokers := meta.Brokers
	if len(brokers) > mostServers {
		l.add(found(Reach, l.where, Unknown, "%d brokers: the first %d were looked at", len(brokers), mostServers))
		brokers = brokers[:mostServers]
	}
	parts := make([]*look, len(brokers))
	var looking sync.WaitGroup
	for i, b := range brokers {
		parts[i] = &look{cluster: l.cluster, where: l.where, now: l.now}
		looking.Go(func() {
			addr := net.JoinHostPort(b.Host, fmt.Sprint(b.Port))
			if !parts[i].server(ctx, fmt.Sprintf("broker %d (advertises %s)", b.NodeID, addr), addr) {
				for k := range parts[i].findings {
					if f := &parts[i].findings[k]; f.Level == Error && f.Check != TLS && f.Check != SASL {
						f.ToDo = "the broker must advertise an address that every node reaches (advertised.listeners): " + f.ToDo
					}
				}
			}
		})
	}
	looking.Wait()
	for _, p := range parts {
		l.add(p.findings...)
	}
}

func (l *look) identity() {
	switch want := l.cluster.Spec.ClusterID; {
	case l.id == "":
		l.add(found(Identity, l.where, Error, "reports no cluster.id").todo("Waybill tells clusters apart by it: upgrade the brokers"))
	case want != "" && want != l.id:
		l.add(found(Identity, l.where, Error, "cluster.id is %s, the declaration says %s", l.id, want).todo("%s", kafka.Advice(kafka.ErrWrongCluster)))
	default:
		l.add(found(Identity, l.where, OK, "cluster.id is %s", l.id))
	}
}

// partitions says how many are without a leader or without all of their replicas.
func (l *look) partitions(meta *kmsg.MetadataResponse) {
	total, leaderless, under := 0, 0, 0
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			total++
			switch {
			case p.Leader < 0:
				leaderless++
			case len(p.ISR) < len(p.Replicas):
				under++
			}
		}
	}
	text := fmt.Sprintf("%d partitions are visible, %d of them without a leader, %d without all replicas in sync", total, leaderless, under)
	switch {
	case leaderless > 0:
		l.add(found(Condition, l.where, Error, "%s", text).todo("find the brokers that are gone: such partitions can be neither read nor written"))
	case under > 0:
		l.add(found(Condition, l.where, Warning, "%s", text).todo("let the replicas catch up before a cutover"))
	default:
		l.add(found(Condition, l.where, OK, "%s", text))
	}
}
