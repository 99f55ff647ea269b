package kafka

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/internal/vfs"
)

// TestDialAuthenticates goes through SCRAM with a real broker.
func TestDialAuthenticates(t *testing.T) {
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS = "data", vfs.NewMem()
	cfg.BootstrapUsers = map[string]string{"replicator": "geheim"}
	cfg.Listeners = []broker.Listener{{Name: "sasl", Addr: "127.0.0.1:0", Protocol: broker.SASLPlaintext}}
	b, err := broker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-b.Ready()

	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		for _, password := range []string{"geheim", "wrong"} {
			t.Setenv("SECRET", password)
			c := &flow.Cluster{Spec: flow.ClusterSpec{SASL: &flow.SASL{Mechanism: mechanism, Username: "replicator", Password: "${env:SECRET}"}}}
			bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
			conn, err := Dial(bounded, c, b.Addr("sasl"), "test")
			cancel()
			if password == "wrong" {
				if !errors.Is(err, kerr.SaslAuthenticationFailed) || strings.Contains(err.Error(), "wrong") {
					t.Errorf("%s with a wrong password: %v", mechanism, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("%s: %v", mechanism, err)
			}
			if _, err := conn.Request(ctx, kmsg.NewPtrMetadataRequest(), 12); err != nil {
				t.Errorf("%s: request: %v", mechanism, err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
