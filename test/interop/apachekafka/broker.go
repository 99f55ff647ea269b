//go:build interop

package apachekafka

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// Config says which broker to run.
type Config struct {
	Version string // of Apache Kafka, such as "4.1.0"
	// Secure makes clients use TLS and SCRAM-SHA-512, and authorises them.
	Secure bool
	// Users are principals of a secure broker beside [Admin] and [User].
	Users []string
	// Properties are further lines of server.properties; they win over those
	// of this package.
	Properties map[string]string
	// Behind gives the broker a second listener, without TLS, whose clients come by
	// another way, such as a proxy: told where it listens, Behind says which
	// address they are to be sent to.
	Behind func(address string) (advertised string)
}

// Admin is the super user of a secure broker; User is another principal, whom
// nothing is allowed at first.
const (
	Admin = "admin"
	User  = "waybill"
)

// readyWithin bounds the start of a JVM on a machine that is busy.
const readyWithin = 3 * time.Minute

// Broker is one running broker, a cluster of its own. Its methods are not safe
// for concurrent use.
type Broker struct {
	Version string
	Addr    string // host:port of the clients' listener
	Far     string // where clients of the second listener are sent to: see [Config.Behind]
	Dir     string // configuration, certificates, data and log

	secure bool
	libs   string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process has ended
}

// Start runs a broker for the time of a test. It fails the test if it cannot.
func Start(t testing.TB, cfg Config) *Broker {
	t.Helper()
	began := time.Now()
	dir, err := os.MkdirTemp("", "waybill-kafka-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover in a temporary folder harms nobody
	b := &Broker{Version: cfg.Version, Dir: dir, secure: cfg.Secure}
	t.Cleanup(func() {
		b.Kill()
		if t.Failed() {
			t.Logf("last lines of the broker's log:\n%s", b.logTail())
		}
	})
	if err := b.prepare(t.Context(), cfg); err != nil {
		t.Fatalf("Apache Kafka %s: %v", cfg.Version, err)
	}
	if err := b.Run(t.Context()); err != nil {
		t.Fatalf("Apache Kafka %s: %v\n%s", cfg.Version, err, b.logTail())
	}
	t.Logf("Apache Kafka %s answers at %s after %s", cfg.Version, b.Addr, time.Since(began).Round(time.Millisecond))
	return b
}

// Prepare makes what a broker needs in dir, for a program that runs it itself: see
// [Broker.Command].
func Prepare(ctx context.Context, dir string, cfg Config) (*Broker, error) {
	b := &Broker{Version: cfg.Version, Dir: dir, secure: cfg.Secure}
	return b, b.prepare(ctx, cfg)
}

// Command is the broker's process, with options of the JVM, yet to be started.
func (b *Broker) Command(ctx context.Context, jvm ...string) *exec.Cmd {
	args := append(jvm[:len(jvm):len(jvm)], "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(b.libs, "*"), "kafka.Kafka", b.properties())
	return exec.CommandContext(ctx, "java", args...)
}

func (b *Broker) prepare(ctx context.Context, cfg Config) error {
	var err error
	if b.libs, err = Jars(ctx, cfg.Version); err != nil {
		return err
	}
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	b.Addr = ports[0]
	if cfg.Secure {
		if err := certificates(b.Dir); err != nil {
			return err
		}
	}
	props := properties(b.Dir, ports, cfg.Secure)
	if cfg.Behind != nil {
		b.Far = cfg.Behind(ports[3])
		props["listeners"] += ",FAR://" + ports[3]
		props["advertised.listeners"] += ",FAR://" + b.Far
		props["listener.security.protocol.map"] += ",FAR:PLAINTEXT"
	}
	maps.Copy(props, cfg.Properties)
	var text strings.Builder
	for _, k := range slices.Sorted(maps.Keys(props)) {
		fmt.Fprintf(&text, "%s=%s\n", k, props[k])
	}
	if err := os.WriteFile(b.properties(), []byte(text.String()), 0o600); err != nil {
		return err
	}
	var id [16]byte
	rand.Read(id[:])
	id[0] &= 0x7f // the tool would take an id that begins with "-" for an option
	args := []string{"kafka.tools.StorageTool", "format", "-t", base64.RawURLEncoding.EncodeToString(id[:]), "-c", b.properties()}
	if cfg.Secure {
		for _, user := range append([]string{Admin, User}, cfg.Users...) {
			args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", user, password(user)))
		}
	}
	if out, err := b.java(ctx, "-Xmx256m", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("format: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// properties are those of a cluster of one node. Its first port is for clients,
// the others for itself.
func properties(dir string, ports []string, secure bool) map[string]string {
	clients := "PLAINTEXT"
	if secure {
		clients = "SASL_SSL"
	}
	p := map[string]string{
		"process.roles":                            "broker,controller",
		"node.id":                                  "1",
		"controller.quorum.voters":                 "1@" + ports[1],
		"listeners":                                fmt.Sprintf("CLIENTS://%s,CONTROLLER://%s,INTERNAL://%s", ports[0], ports[1], ports[2]),
		"advertised.listeners":                     fmt.Sprintf("CLIENTS://%s,INTERNAL://%s", ports[0], ports[2]),
		"listener.security.protocol.map":           "CLIENTS:" + clients + ",CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT",
		"controller.listener.names":                "CONTROLLER",
		"inter.broker.listener.name":               "INTERNAL",
		"log.dirs":                                 filepath.Join(dir, "data"),
		"offsets.topic.num.partitions":             "4",
		"offsets.topic.replication.factor":         "1",
		"transaction.state.log.num.partitions":     "4",
		"transaction.state.log.replication.factor": "1",
		"transaction.state.log.min.isr":            "1",
		"group.initial.rebalance.delay.ms":         "0",
		"auto.create.topics.enable":                "false",
		"log.retention.ms":                         "-1", // tests write records of long ago
		"log.cleaner.dedupe.buffer.size":           "8388608",
		"num.network.threads":                      "2",
		"num.io.threads":                           "4",
		"broker.session.timeout.ms":                "3000", // a killed broker comes back soon
		"broker.heartbeat.interval.ms":             "500",
	}
	if !secure {
		return p
	}
	p["sasl.enabled.mechanisms"] = "SCRAM-SHA-512"
	p["listener.name.clients.scram-sha-512.sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
	p["listener.name.clients.ssl.keystore.type"] = "PEM"
	p["listener.name.clients.ssl.keystore.location"] = filepath.Join(dir, "broker.pem")
	p["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
	// The node meets itself over the listeners without authentication.
	p["super.users"] = "User:" + Admin + ";User:ANONYMOUS"
	return p
}

func (b *Broker) properties() string { return filepath.Join(b.Dir, "server.properties") }
func (b *Broker) log() string        { return filepath.Join(b.Dir, "broker.log") }

func (b *Broker) java(ctx context.Context, heap string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "java", append([]string{
		heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", filepath.Join(b.libs, "*"),
	}, args...)...)
}

// Run starts the broker and returns when it answers. It is for a broker that
// was killed: Start has run it once.
func (b *Broker) Run(ctx context.Context) error {
	log, err := os.OpenFile(b.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = b.java(context.WithoutCancel(ctx), "-Xmx512m", "kafka.Kafka", b.properties())
	b.cmd.Stdout, b.cmd.Stderr = log, log
	b.ended = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(b.ended)
		runChild(b.cmd, started)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start java: %w", err)
	}
	return b.awaitReady(ctx)
}

// Kill ends the broker at once, as a power cut would, and waits until the
// process is gone. What the kernel holds of its files survives.
func (b *Broker) Kill() {
	if b.cmd == nil || b.cmd.Process == nil {
		return
	}
	_ = b.cmd.Process.Kill() // it may have ended already
	<-b.ended
}

func (b *Broker) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		err := b.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-b.ended:
			return errors.New("the broker ended")
		case <-ctx.Done():
			return fmt.Errorf("the broker does not answer: %w", err)
		case <-retry.C:
		}
	}
}

// probe asks for the cluster's id with a client of its own, so that an early
// refusal is not remembered.
func (b *Broker) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cl, err := kafka.NewClient(b.Cluster(Admin), "interop-probe", kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kafka.ClusterID(ctx, cl)
	return err
}

// Cluster declares the broker as user reaches it ([Admin], [User] or one of
// [Config.Users]; a broker that is not secure knows no users).
func (b *Broker) Cluster(user string) *flow.Cluster {
	c := &flow.Cluster{Metadata: flow.Metadata{Name: "apache-" + strings.ReplaceAll(b.Version, ".", "-")}}
	c.Spec.BootstrapServers = []string{b.Addr}
	if !b.secure {
		return c
	}
	c.Spec.TLS = &flow.TLS{CAFile: b.CAFile()}
	c.Spec.SASL = &flow.SASL{Mechanism: "SCRAM-SHA-512", Username: user, Password: flow.Secret("${file:" + b.PasswordFile(user) + "}")}
	return c
}

// CAFile is the authority of a secure broker's certificate.
func (b *Broker) CAFile() string { return filepath.Join(b.Dir, "ca.pem") }

// PasswordFile holds the password of one user of a secure broker.
func (b *Broker) PasswordFile(user string) string {
	file := filepath.Join(b.Dir, user+".password")
	// An unwritten file shows in the handshake.
	_ = os.WriteFile(file, []byte(password(user)), 0o600)
	return file
}

func password(user string) string { return user + "-of-the-interop-tests" }

func (b *Broker) logTail() []byte {
	text, err := os.ReadFile(b.log())
	if err != nil {
		return nil
	}
	return text[max(0, len(text)-4000):]
}

// freePorts returns addresses of loopback that nobody listens on now.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
