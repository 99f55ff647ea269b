package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/cmd/replicator/demo"
)

func newDemo() *cobra.Command {
	opts := demo.DefaultOptions()
	var exit, stay bool
	var format string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play the whole job on this machine, and check it",
		Long: `Play the whole job on this machine, and check it.

Two datacenters (bundled brokers with TLS, SCRAM and ACLs) and a fleet of three
replicators are started as child processes on loopback. Real events are produced,
mirrored, read on both sides, a node is killed, an event's lineage is asked for,
and a planned failover runs by runbook. Then both datacenters are compared.

On a terminal everything goes on running until Ctrl-C.`,
		Example: `  replicator demo
  replicator demo --exit -o json
  replicator demo --input events.ndjson.gz --key user.id --time at`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			terminal := isTerminal(cmd.OutOrStdout())
			asJSON := format == "json"
			opts.Progress, opts.Color = cmd.OutOrStdout(), terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
			if asJSON {
				opts.Progress, opts.Color = cmd.ErrOrStderr(), false
			}
			if stay || (terminal && !exit) {
				opts.Stay = func(ctx context.Context, r *demo.Report) {
					if asJSON {
						_ = printJSON(cmd.OutOrStdout(), r) // the demonstration goes on without a reader
					} else {
						fmt.Fprint(opts.Progress, demo.Invitation(r, callMe(exec.LookPath, os.Executable)))
					}
					<-ctx.Done()
				}
			}
			return playDemo(cmd, opts, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Input.File, "input", "", "NDJSON file of events, gzip or not, instead of the earthquakes that come along")
	f.StringVar(&opts.Input.Key, "key", opts.Input.Key, "path in an event to the record's key; empty for records without keys")
	f.StringVar(&opts.Input.Time, "time", opts.Input.Time, "path in an event to its time: milliseconds since 1970 or RFC 3339")
	f.StringVar(&opts.Dir, "dir", "", "keep everything in this empty folder (default: a temporary one)")
	f.StringVar(&opts.USAddress, "us", opts.USAddress, "address of datacenter us")
	f.StringVar(&opts.EUAddress, "eu", opts.EUAddress, "address of datacenter eu")
	f.StringVar(&opts.APIAddress, "api", opts.APIAddress, "address of the first node's HTTP API")
	f.BoolVar(&exit, "exit", false, "end after the last act, also on a terminal")
	f.BoolVar(&stay, "stay", false, "go on running after the last act, also without a terminal")
	formatFlag(cmd, &format, "text", "json")
	cmd.MarkFlagsMutuallyExclusive("exit", "stay")
	return cmd
}

func playDemo(cmd *cobra.Command, opts demo.Options, asJSON bool) error {
	report, err := demo.Run(cmd.Context(), opts)
	if err != nil {
		if cmd.Context().Err() != nil {
			return withCode(exitInterrupted, errors.New("interrupted"))
		}
		if fault := (*demo.InputError)(nil); errors.As(err, &fault) {
			return withCode(exitInvalid, err)
		}
		return err
	}
	if asJSON && opts.Stay == nil {
		if err := printJSON(cmd.OutOrStdout(), report); err != nil {
			return err
		}
	}
	if !report.OK {
		return withCode(exitNotMet, errSilent)
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// callMe is what a shell calls this program by: its name if that is found, else its
// path, which "go run" keeps for as long as the program runs.
func callMe(find func(string) (string, error), running func() (string, error)) string {
	const name = "replicator"
	self, err := running()
	if err != nil {
		return name
	}
	if found, err := find(name); err == nil {
		a, err1 := os.Stat(found)
		b, err2 := os.Stat(self)
		if err1 == nil && err2 == nil && os.SameFile(a, b) {
			return name
		}
	}
	return self
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != ""
}
