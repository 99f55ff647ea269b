package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
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
	f.StringVar(&c.mechanism, "mechanism", "SCRAM-SHA-512", "with --bootstrap: SASL mechanism")
}

func (c *clusterFlags) cluster() (*flow.Cluster, error) {
	if len(c.bootstrap) > 0 {
		return c.fromFlags()
	}
	if c.file == "" {
		return nil, withCode(exitInvalid, errors.New("say which cluster: --bootstrap HOST:PORT, or -f FILE with a Cluster in it"))
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
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, withCode(exitInvalid, fmt.Errorf("%s declares no Cluster %s", c.file, c.name))
	}
	return nil, withCode(exitInvalid, fmt.Errorf("%s declares %d clusters: choose one with --cluster", c.file, len(found)))
}

func (c *clusterFlags) fromFlags() (*flow.Cluster, error) {
	cl := &flow.Cluster{Metadata: flow.Metadata{Name: c.bootstrap[0]}, Spec: flow.ClusterSpec{BootstrapServers: c.bootstrap}}
	if c.caFile != "" {
		cl.Spec.TLS = &flow.TLS{CAFile: c.caFile}
	}
	if c.user == "" {
		return cl, nil
	}
	if c.passwordFile == "" {
		return nil, withCode(exitInvalid, errors.New("--user needs --password-file"))
	}
	path, err := filepath.Abs(c.passwordFile)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, withCode(exitInvalid, fmt.Errorf("--password-file: %w", err))
	}
	cl.Spec.SASL = &flow.SASL{Mechanism: c.mechanism, Username: c.user, Password: flow.Secret("${file:" + path + "}")}
	return cl, nil
}

func (c *clusterFlags) client(opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := c.cluster()
	if err != nil {
		return nil, err
	}
	return kafka.NewClient(cl, "replicator-cli", opts...)
}
