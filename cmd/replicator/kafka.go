package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// clusterFlags say which cluster a command talks to by itself, without a fleet:
// one that a YAML file declares, or one described by flags.
type clusterFlags struct {
	file, name string

	bootstrap    []string
	caFile       string
	user         string
	passwordFile string
	mechanism    string
}

func (c *clusterFlags) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVarP(&c.file, "file", "f", "", "YAML file that declares the cluster")
	f.StringVar(&c.name, "cluster", "", "name of the cluster in the file (if it declares several)")
	f.StringSliceVarP(&c.bootstrap, "bootstrap", "b", nil, "bootstrap servers, instead of a file")
	f.StringVar(&c.caFile, "ca-file", "", "with --bootstrap: CA of the brokers; turns TLS on")
	f.StringVar(&c.user, "user", "", "with --bootstrap: SASL user")
	f.StringVar(&c.passwordFile, "password-file", "", "with --bootstrap: file with the user's password")
	f.StringVar(&c.mechanism, "mechanism", "", "with --user: SASL mechanism (default SCRAM-SHA-512)")
}

// cluster is the one that the flags mean.
func (c *clusterFlags) cluster() (*flow.Cluster, error) {
	cl, err := c.fromFile()
	if len(c.bootstrap) > 0 {
		cl, err = c.fromFlags()
	}
	return cl, withCode(exitInvalid, err)
}

func (c *clusterFlags) fromFile() (*flow.Cluster, error) {
	switch {
	case c.file == "":
		return nil, errors.New("say which cluster: --bootstrap HOST:PORT, or -f FILE with a Cluster in it")
	case c.file == "-":
		return nil, errors.New("-f -: standard input holds no declarations here, write the name of a file")
	case c.user != "" || c.passwordFile != "" || c.mechanism != "" || c.caFile != "":
		return nil, errors.New("--user, --password-file, --mechanism and --ca-file go with --bootstrap: the file says these of its clusters")
	}
	objects, err := readObjects([]string{c.file}, nil)
	if err != nil {
		return nil, err
	}
	var found []*flow.Cluster
	for _, o := range objects {
		if o.Cluster != nil && (c.name == "" || o.Cluster.Metadata.Name == c.name) {
			found = append(found, o.Cluster)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%s declares %d clusters: choose one with --cluster", c.file, len(found))
	case c.name != "":
		return nil, fmt.Errorf("%s declares no Cluster %q", c.file, c.name)
	}
	return nil, fmt.Errorf("%s declares no Cluster", c.file)
}

func (c *clusterFlags) fromFlags() (*flow.Cluster, error) {
	switch {
	case c.file != "" || c.name != "":
		return nil, errors.New("--bootstrap describes the cluster: leave out -f and --cluster")
	case (c.user == "") != (c.passwordFile == ""):
		return nil, errors.New("--user and --password-file go together")
	case c.mechanism != "" && c.user == "":
		return nil, errors.New("--mechanism goes with --user")
	}
	cl := &flow.Cluster{Metadata: flow.Metadata{Name: "command-line"}, Spec: flow.ClusterSpec{BootstrapServers: c.bootstrap}}
	if c.caFile != "" {
		cl.Spec.TLS = &flow.TLS{CAFile: c.caFile}
	}
	if c.user != "" {
		path, err := filepath.Abs(c.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
		cl.Spec.SASL = &flow.SASL{Mechanism: cmp.Or(c.mechanism, "SCRAM-SHA-512"), Username: c.user, Password: flow.Secret("${file:" + path + "}")}
		if _, err := kafka.ResolveSecret(cl.Spec.SASL.Password); err != nil {
			return nil, fmt.Errorf("--password-file: %w", err)
		}
	}
	return cl, flow.Object{Kind: flow.KindCluster, Cluster: cl}.Validate()
}

func (c *clusterFlags) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := c.cluster()
	if err != nil {
		return nil, err
	}
	if cl.Spec.TLS != nil { // a missing file shows now, not as a broker that cannot be reached
		if _, err := kafka.TLSConfig(cl.Spec.TLS); err != nil {
			return nil, withCode(exitInvalid, err)
		}
	}
	client, err := kafka.NewClient(cl, "replicator-cli", opts...)
	return client, withCode(exitInvalid, err)
}

// kafkaLimit bounds one request of a command. It is for clusters that take the
// connection and say nothing: others are refused at once.
const kafkaLimit = 30 * time.Second

// ask does one thing with a cluster, and says of an error whether the cluster
// could not be reached.
func (c *clusterFlags) ask(ctx context.Context, do func(context.Context, *kgo.Client) error) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	bounded, cancel := context.WithTimeout(ctx, kafkaLimit)
	defer cancel()
	return kafkaError(ctx, do(bounded, cl))
}

// needTopic ends commands on topics that are not there, or a cluster that is not.
func needTopic(ctx context.Context, cl *kgo.Client, topic string) error {
	bounded, cancel := context.WithTimeout(ctx, kafkaLimit)
	defer cancel()
	topics, err := kadm.NewClient(cl).ListTopicsWithInternal(bounded, topic)
	if err == nil {
		err = topics[topic].Err
	}
	if err != nil {
		return kafkaError(ctx, fmt.Errorf("topic %s: %w", topic, err))
	}
	return nil
}

// kafkaError gives an error of a cluster its exit code and, for frequent ones,
// what to do.
func kafkaError(ctx context.Context, err error) error {
	var dial *net.OpError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return &codedError{err, exitUnreachable, fmt.Sprintf("no answer within %s", kafkaLimit)}
	case errors.As(err, &dial):
		return &codedError{err, exitUnreachable, "is a broker listening there, and is it TLS that it speaks (--ca-file)?"}
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return &codedError{err, exitFailed, "see 'replicator topic list'"}
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return &codedError{err, exitFailed, "look at the user, the password and the mechanism"}
	}
	return err
}
