// Wiretap records requests that real clients send: it starts a bundled broker in
// memory, stands before it, and keeps up to a few different requests of each API
// key and version. What it writes seeds the tests that damage frames (see broker's
// TestDamagedFrames).
//
//	wiretap -out FILE                  drives franz-go's clients itself, through every version
//	wiretap -out FILE COMMAND [ARG]... runs other clients; BROKERS is where they go
//
// No client still speaks every version of a request, so clients are told of an older
// broker: with -newest N the answers to ApiVersions that pass claim no version
// above N, except where the oldest one is. What the file held before is kept and
// added to. record.sh makes the whole file.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/waybillhq/waybill/broker"
	"github.com/waybillhq/waybill/internal/vfs"
)

func main() {
	out := flag.String("out", "", "`file` that keeps the requests")
	newest := flag.Int("newest", math.MaxInt16-1, "newest `version` of any request that a command's clients are told of")
	verbose := flag.Bool("v", false, "say what failed, as much does that a version cannot do")
	flag.Parse()
	if *verbose {
		slog.SetLogLoggerLevel(slog.LevelDebug)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, int16(*newest), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "wiretap:", err)
		os.Exit(1)
	}
}

// The listeners of the broker, by name.
const plainListener, saslListener = "plain", "sasl"

// user may do everything, on both listeners.
const user, password = "recorded", "not-a-secret"

func run(ctx context.Context, out string, newest int16, command []string) error {
	kept, err := readFrames(out)
	if err != nil {
		return err
	}
	taps := map[string]*tap{}
	cfg := broker.DefaultConfig()
	cfg.Dir, cfg.FS = "data", vfs.NewMem()
	cfg.Listeners = nil
	for name, protocol := range map[string]broker.Protocol{plainListener: broker.Plaintext, saslListener: broker.SASLPlaintext} {
		t, err := newTap(ctx, kept, newest)
		if err != nil {
			return err
		}
		defer t.l.Close()
		taps[name] = t
		cfg.Listeners = append(cfg.Listeners, broker.Listener{Name: name, Addr: t.to, Protocol: protocol, Advertised: t.addr()})
	}
	cfg.GroupInitialRebalanceDelay, cfg.GroupConsumerHeartbeatInterval = 0, 200*time.Millisecond
	cfg.Authorizer, cfg.SuperUsers = true, []string{"User:ANONYMOUS", "User:" + user}
	cfg.BootstrapUsers = map[string]string{user: password}
	b, err := broker.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running errgroup.Group
	running.Go(func() error { return b.Run(ctx) })
	<-b.Ready()
	for _, t := range taps {
		running.Go(func() error { return t.run(ctx) })
	}
	err = record(ctx, kept, taps, command)
	cancel()
	if failed := running.Wait(); err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	fmt.Println(kept.summary())
	return writeFrames(out, kept)
}

// record has clients send requests, once it is known which of them the broker speaks.
func record(ctx context.Context, kept *frames, taps map[string]*tap, command []string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(taps[plainListener].to))
	if err != nil {
		return err
	}
	defer cl.Close()
	ask := kmsg.NewPtrApiVersionsRequest()
	ask.ClientSoftwareName, ask.ClientSoftwareVersion = "wiretap", "1"
	versions, err := ask.RequestWith(ctx, cl.SeedBrokers()[0])
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(versions.ErrorCode); err != nil {
		return err
	}
	for _, k := range versions.ApiKeys {
		kept.spoken[k.ApiKey] = span{k.MinVersion, k.MaxVersion}
	}
	plain, sasl := taps[plainListener], taps[saslListener]
	if len(command) == 0 {
		return drive(ctx, kept, plain, sasl)
	}
	// Whatever the command comes to: what its clients sent is what counts.
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "BROKERS="+plain.addr(), "SASL_BROKERS="+sasl.addr())
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		slog.Warn("the command failed", "err", err)
	}
	return nil
}
