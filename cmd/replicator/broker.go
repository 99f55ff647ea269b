package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
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
	var file, dir, addr, addressFile string
	var logs logging
	var life lifetime
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "Run the bundled broker: one node, one disk",
		Long: `Run the bundled broker: one node that speaks the Kafka protocol.

Without a configuration file it listens on loopback without TLS or users, for
trying things out. What it acknowledges is on disk; one node means one disk, so
keep copies of what matters in another datacenter.`,
		Example: `  replicator broker --dir ./data
  replicator broker --config broker.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := brokerConfig(file, dir, addr)
			if err != nil {
				return err
			}
			conf.Log = logs.logger(cmd.ErrOrStderr())
			ctx, stop := life.context(cmd.Context(), cmd.InOrStdin())
			defer stop()
			return runBroker(ctx, conf, addressFile)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "YAML file (see docs/broker.md)")
	f.StringVar(&dir, "dir", "", "data folder, instead of the file's dataDir")
	f.StringVar(&addr, "listen", "127.0.0.1:9092", "address to listen on when there is no file")
	f.StringVar(&addressFile, "address-file", "", "write the bound addresses there when ready, one a line: NAME HOST:PORT")
	logs.flags(cmd)
	life.flags(cmd)
	return cmd
}

func runBroker(ctx context.Context, conf broker.Config, addressFile string) error {
	b, err := broker.New(conf)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.Run(ctx) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-b.Ready():
		}
		var lines strings.Builder
		for _, l := range conf.Listeners {
			fmt.Fprintf(&lines, "%s %s\n", l.Name, b.Addr(l.Name))
			conf.Log.Info("listening", "listener", l.Name, "address", b.Addr(l.Name), "protocol", l.Protocol)
		}
		if addressFile == "" {
			return nil
		}
		return writeFile(addressFile, []byte(lines.String()))
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
