package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/cmd/replicator/demo"
)

func newBroker() *cobra.Command {
	var file, addressFile string
	var quick brokerFlags
	var logs logging
	var life lifetime
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Run the bundled broker: one node, one disk",
		Long: `Run the bundled broker: one node that speaks the Kafka protocol.

Without a configuration file it listens on loopback without TLS or users, for
trying things out, or as the flags say. What it acknowledges is on disk; one node
means one disk, so keep copies of what matters in another datacenter.`,
		Example: `  replicator broker --dir ./data
  replicator broker --dir ./data --metrics 127.0.0.1:9404
  replicator broker --dir ./data --listen 0.0.0.0:9093 --tls-cert cert.pem --tls-key key.pem --user 'admin=${file:admin.pw}'
  replicator broker --config broker.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			started := time.Now()
			var conf brokerProcess
			var err error
			if file == "" {
				conf, err = quick.config()
			} else {
				conf, err = brokerConfig(file, &quick, cmd.Flags().Changed)
			}
			if err != nil {
				return err
			}
			if err := takeSockets(conf.Listeners, os.Getenv); err != nil {
				return err
			}
			conf.Log = logs.logger(cmd.ErrOrStderr())
			ctx, stop := life.context(cmd.Context(), cmd.InOrStdin())
			defer stop()
			return runBroker(ctx, conf, addressFile, started)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "YAML file (see docs/broker.md)")
	quick.flags(f)
	f.StringVar(&addressFile, "address-file", "", "write the bound addresses there when ready, one a line: NAME HOST:PORT")
	logs.flags(cmd)
	life.flags(cmd)
	return cmd
}

// runBroker starts what answers supervisors, then the broker, which may have much
// to recover, and stops them the other way round.
func runBroker(ctx context.Context, conf brokerProcess, addressFile string, started time.Time) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var status brokerStatus
	var addresses strings.Builder
	outer, outerCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	if conf.metrics != "" {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", conf.metrics)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		fmt.Fprintf(&addresses, "metrics %s\n", l.Addr())
		serving, stopServing := context.WithCancel(outerCtx)
		defer func() {
			stopServing()
			err = errors.Join(err, outer.Wait())
		}()
		outer.Go(func() error {
			defer cancel()
			return status.serve(serving, l, conf.Log)
		})
	}
	b, err := broker.New(conf.Config)
	if err != nil {
		return err
	}
	status.broker.Store(b)
	defer context.AfterFunc(ctx, func() { status.stopping.Store(true) })()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.Run(gctx) })
	g.Go(func() error {
		select {
		case <-gctx.Done():
			return nil
		case <-b.Ready():
		}
		for _, l := range conf.Listeners {
			fmt.Fprintf(&addresses, "%s %s\n", l.Name, b.Addr(l.Name))
			conf.Log.Info("listening", "listener", l.Name, "address", b.Addr(l.Name), "protocol", l.Protocol)
		}
		stored := b.Stored()
		conf.Log.Info("serving as one node on one disk: what is acknowledged is on this disk, and lost with it unless it is copied elsewhere",
			"dir", conf.Dir, "cluster", b.ClusterID(), "topics", stored.Topics, "partitions", stored.Partitions, "offline", stored.Offline,
			"took", time.Since(started).Round(time.Millisecond))
		if addressFile == "" {
			return nil
		}
		return writeFile(addressFile, []byte(addresses.String()))
	})
	return g.Wait()
}

// lifetime ends a server process with its standard input, for a parent that
// must not leave children behind.
type lifetime struct{ withStdin bool }

// stdinGrace is how long an orphan may take to end tidily. A fleet whose nodes
// are all orphans has nobody to move its work to, and would only wait.
const stdinGrace = 2 * time.Second

func (l *lifetime) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&l.withStdin, demo.WatchStdinFlag, false, "stop when standard input ends, at the latest 2 s later")
}

// context ends with ctx or standard input. The command calls the function that is
// returned when it has stopped; if that takes too long the process exits.
func (l *lifetime) context(ctx context.Context, stdin io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if !l.withStdin {
		return ctx, cancel
	}
	stopped := make(chan struct{})
	go func() { // ends with the process: a read of stdin cannot be interrupted
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
		select {
		case <-stopped:
		case <-time.After(stdinGrace):
			os.Exit(exitFailed)
		}
	}()
	return ctx, sync.OnceFunc(func() { cancel(); close(stopped) })
}

// logging is the flags of a server process's log, which goes to standard error.
type logging struct {
	level  slog.Level
	asJSON bool
}

func (l *logging) flags(cmd *cobra.Command) {
	cmd.Flags().TextVar(&l.level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	cmd.Flags().BoolVar(&l.asJSON, "log-json", false, "log as JSON, one object a line")
}

func (l *logging) logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.level}
	if l.asJSON {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
