package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/kafka"
)

// brokerProcess is a broker and what its process does beside it.
type brokerProcess struct {
	broker.Config
	metrics string // address of /metrics, /livez and /readyz; empty is none
}

// brokerFlags are a broker without a file: one listener, and everybody who gets in
// may do everything. dir and metrics go with a file too.
type brokerFlags struct {
	dir, metrics        string
	listen, advertise   string
	cert, key, clientCA string
	users               []string
	allowPlaintext      bool
}

// insteadOfFile are the flags that a file has keys for.
var insteadOfFile = []string{"listen", "advertise", "tls-cert", "tls-key", "tls-client-ca", "user", "allow-plaintext"}

func (q *brokerFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&q.dir, "dir", "", "data folder, instead of the file's dataDir")
	f.StringVar(&q.metrics, "metrics", "", "address of /metrics, /livez and /readyz, instead of the file's metrics")
	f.StringVar(&q.listen, "listen", "127.0.0.1:9092", "without a file: address to listen on")
	f.StringVar(&q.advertise, "advertise", "", "without a file: address that clients are told, if it is another")
	f.StringVar(&q.cert, "tls-cert", "", "without a file: certificate; clients must use TLS")
	f.StringVar(&q.key, "tls-key", "", "without a file: key of the certificate")
	f.StringVar(&q.clientCA, "tls-client-ca", "", "without a file: clients must show a certificate of this authority")
	f.StringArrayVar(&q.users, "user", nil, "without a file: a user as name=${file:PATH} or name=${env:NAME}, which is where the password is; clients must use SASL")
	f.BoolVar(&q.allowPlaintext, "allow-plaintext", false, "without a file: no TLS on an address that is not loopback; that network is trusted")
}

// config is the broker that the flags say.
func (q *brokerFlags) config() (brokerProcess, error) {
	conf := brokerProcess{Config: broker.DefaultConfig(), metrics: q.metrics}
	l := &conf.Listeners[0]
	l.Addr, l.Advertised = q.listen, q.advertise
	l.TLS = broker.ListenerTLS{CertFile: q.cert, KeyFile: q.key, ClientCAFile: q.clientCA}
	conf.AllowPlaintext = q.allowPlaintext
	secure := q.cert != "" || q.key != ""
	switch {
	case secure && len(q.users) > 0:
		l.Protocol = broker.SASLTLS
	case secure:
		l.Protocol = broker.TLS
	case len(q.users) > 0:
		l.Protocol = broker.SASLPlaintext
	}
	var faults []error
	if q.dir == "" {
		faults = append(faults, errors.New("say where to store: --dir FOLDER, or --config FILE"))
	} else {
		conf.Dir = filepath.Clean(q.dir)
	}
	if q.clientCA != "" && !secure {
		faults = append(faults, errors.New("--tls-client-ca needs --tls-cert and --tls-key"))
		l.TLS.ClientCAFile = "" // which is all there is to say of it
	}
	for _, f := range conf.Faults() {
		if f.Path != "dataDir" {
			faults = append(faults, asFlag(f))
		}
	}
	conf.BootstrapUsers = map[string]string{}
	for _, user := range q.users {
		name, reference, _ := strings.Cut(user, "=")
		password, err := kafka.ResolveSecret(flow.Secret(reference))
		_, taken := conf.BootstrapUsers[name]
		switch {
		case name == "" || taken:
			err = errors.New("the name is empty or taken")
		case err == nil && password == "":
			err = errors.New("the password is empty")
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("--user %s: %w", name, err))
		}
		conf.BootstrapUsers[name] = password
	}
	return conf, withCode(exitInvalid, errors.Join(faults...))
}

// asFlag is a fault in the words of flags.
func asFlag(f broker.Fault) broker.Fault {
	flags := map[string]string{
		"listeners[0].address": "--listen", "listeners[0].advertised": "--advertise",
		"listeners[0].certFile": "--tls-cert", "listeners[0].keyFile": "--tls-key", "listeners[0].clientCaFile": "--tls-client-ca",
	}
	if flag := flags[f.Path]; flag != "" {
		f.Path = flag
	}
	f.Fix = strings.NewReplacer("use TLS or SASL_TLS", "use --tls-cert and --tls-key", "set allowPlaintext: true", "say --allow-plaintext",
		"certFile and keyFile", "--tls-cert and --tls-key").Replace(f.Fix)
	return f
}

// besideFile refuses flags that a file would win over in silence.
func besideFile(changed func(flag string) bool) error {
	for _, flag := range insteadOfFile {
		if changed(flag) {
			return withCode(exitInvalid, fmt.Errorf("--%s is for a broker without a file: write it into the file", flag))
		}
	}
	return nil
}
