package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/verify"
)

// verifyEvery is between looks at a verification that runs.
const verifyEvery = 500 * time.Millisecond

func newVerify() *cobra.Command {
	var fleet server
	var out output
	var topics []string
	var from, rate string
	var watch, detach, stop, partitions bool
	cmd := &cobra.Command{
		Use:   "verify FLOW",
		Short: "Compare both sides of a flow, record by record",
		Long: `Reads both sides of a flow and compares what the ledger says was copied: every
record with the one at its translated offset, the reason of every gap, and what the
destination has besides. The fleet carries it out and goes on with it when a node
dies; this command waits for its end, and can be interrupted: 'verify --watch' sees
it again. Exit code 6 says that there are differences, or that not everything could
be compared.`,
		Example: `  replicator verify us-eu
  replicator verify us-eu --topic 'orders*' --rate 50MiB
  replicator verify us-eu --from 2026-11-24T08:00:00Z
  replicator verify us-eu --watch -o json
  replicator verify us-eu --stop`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/api/v1/flows/" + url.PathEscape(args[0]) + "/verification"
			var r verify.Report
			switch {
			case stop:
				if err := fleet.call(cmd.Context(), http.MethodDelete, path, nil, &r); err != nil {
					return err
				}
				return out.print(cmd.OutOrStdout(), &r, func(t *table) { drawVerification(t, &r) })
			case !watch:
				q, err := verifyQuery(topics, from, rate)
				if err != nil {
					return withCode(exitInvalid, err)
				}
				if err := fleet.call(cmd.Context(), http.MethodPost, path+q, nil, &r); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "started %s\n", r.ID)
				if detach {
					return nil
				}
			}
			if partitions {
				path += "?partitions=true"
			}
			if err := awaitVerification(cmd.Context(), &fleet, path, &r, cmd.ErrOrStderr()); err != nil {
				if cmd.Context().Err() != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "the fleet goes on with it: replicator verify %s --watch, or --stop\n", args[0])
				}
				return err
			}
			if err := out.print(cmd.OutOrStdout(), &r, func(t *table) { drawVerification(t, &r) }); err != nil {
				return err
			}
			return verdictError(&r)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&topics, "topic", nil, "only source topics that match this pattern (may be repeated)")
	f.StringVar(&from, "from", flow.VerifyFromStart, "start, verified (what the last verification has not reached), or a time (RFC 3339)")
	f.StringVar(&rate, "rate", "", "read at most so many bytes a second of both sides together, like 50MiB")
	f.BoolVarP(&watch, "watch", "w", false, "start none: follow the one that runs, or show the last")
	f.BoolVar(&detach, "detach", false, "do not wait for its end")
	f.BoolVar(&stop, "stop", false, "stop the one that runs")
	f.BoolVar(&partitions, "partitions", false, "every partition too")
	cmd.MarkFlagsMutuallyExclusive("watch", "detach", "stop")
	for _, other := range []string{"topic", "from", "rate"} {
		cmd.MarkFlagsMutuallyExclusive("watch", other)
		cmd.MarkFlagsMutuallyExclusive("stop", other)
	}
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

func verifyQuery(topics []string, from, rate string) (string, error) {
	q := url.Values{"from": {from}}
	for _, t := range topics {
		q.Add("topic", t)
	}
	if rate != "" {
		size, err := flow.ParseSize(rate)
		if err != nil {
			return "", fmt.Errorf("--rate: %w", err)
		}
		q.Set("bytesPerSecond", strconv.FormatInt(int64(size), 10))
	}
	return "?" + q.Encode(), nil
}

// awaitVerification looks at a verification until it has ended, and shows on a
// terminal how far it is. One that another replaces is followed no further.
func awaitVerification(ctx context.Context, fleet *server, path string, r *verify.Report, progress io.Writer) error {
	id := r.ID
	for {
		*r = verify.Report{}
		if err := fleet.call(ctx, http.MethodGet, path, nil, r); err != nil {
			return err
		}
		if id != "" && r.ID != id {
			return withCode(exitConflict, fmt.Errorf("verification %s was replaced by %s", id, r.ID))
		}
		id = r.ID
		if isTerminal(progress) {
			fmt.Fprintf(progress, "\r\x1b[K%s", progressLine(r))
			if r.State != verify.Running {
				fmt.Fprintln(progress)
			}
		}
		if r.State != verify.Running {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(verifyEvery):
		}
	}
}

// progressLine is a verification in one line.
func progressLine(r *verify.Report) string {
	percent := 100.0
	if r.Offsets > 0 {
		percent = 100 * float64(r.Compared) / float64(r.Offsets)
	}
	line := fmt.Sprintf("%.1f %%, %s of %s, %s records, %s differences", percent, count(int64(r.CopiesDone)), several(r.Copies, "partition"), count(r.Records), count(r.Different))
	if r.State == verify.Running {
		line += ", " + remaining(r.ETASeconds) + " left"
	}
	if r.Problem != "" {
		line += ", waits: " + r.Problem
	}
	return line
}

// verdictError is the error of a verification that did not find both sides equal.
func verdictError(r *verify.Report) error {
	switch r.Verdict {
	case verify.Differs:
		return withCode(exitNotMet, fmt.Errorf("flow %s: %s differences", r.Flow, count(r.Different)))
	case verify.Incomplete:
		return withCode(exitNotMet, fmt.Errorf("flow %s: not everything was compared", r.Flow))
	}
	return nil
}

var verdictTexts = map[verify.Verdict]string{
	verify.Open: "running, no difference so far", verify.Equal: "equal", verify.Differs: "DIFFERENT", verify.Incomplete: "not everything was compared",
	verify.EqualWhereComparable: "equal, as far as it can be compared",
}

func drawVerification(t *table, r *verify.Report) {
	t.row("FLOW", "VERIFICATION", "STATE", "PARTITIONS", "RECORDS", "BYTES", "DIFFERENCES", "VERDICT")
	t.row(r.Flow, r.ID, r.State, fmt.Sprintf("%d/%d", r.CopiesDone, r.Copies), count(r.Records), count(r.Bytes), count(r.Different), verdictTexts[r.Verdict])
	for _, list := range []struct {
		title  string
		counts map[string]int64
	}{{"GAP", r.Gaps}, {"NOT COMPARABLE", r.NotComparable}} {
		if len(list.counts) == 0 {
			continue
		}
		t.line("")
		t.row(list.title, "OFFSETS")
		for _, why := range sortedNames(list.counts) {
			t.row(why, count(list.counts[why]))
		}
	}
	drawUnchecked(t, r.Unchecked)
	t.line("")
	t.line(fmt.Sprintf("%s of %s of the ledger are on both sides as their digests say", count(r.RunsConfirmed), several(int(r.Runs), "run")))
	for _, fact := range []struct {
		n    int64
		text string
	}{
		{r.Foreign, "records of others lie among the copies"},
		{r.TakenBack, "records lie there that the source has lost since: the ledger has taken them back"},
		{r.OwnTimes, "records have timestamps that the destination has set itself"},
	} {
		if fact.n > 0 {
			t.line(count(fact.n) + " " + fact.text)
		}
	}
	if len(r.First) > 0 {
		t.line("")
		t.row("KIND", "SOURCE", "DESTINATION", "COUNT", "CHANGED", "WHAT")
		for _, d := range r.First {
			t.row(d.Kind, place(d.SourceTopic, d.Partition, d.Source), place(d.DestinationTopic, d.Partition, d.Destination), count(d.Count), or(d.Changed), d.What)
		}
	}
	drawVerifiedPartitions(t, r)
}

// drawUnchecked lists gaps whose reasons nothing could confirm, with what to do about it.
func drawUnchecked(t *table, all []verify.Unchecked) {
	if len(all) == 0 {
		return
	}
	t.line("")
	t.row("GAPS NOT CHECKED", "OFFSETS", "LEDGER", "PROBLEM", "TO DO")
	for _, u := range all {
		t.row(u.Why, count(u.Count), or(u.Ledger), or(u.Problem), or(u.Fix))
	}
}

func drawVerifiedPartitions(t *table, r *verify.Report) {
	if len(r.Partitions) == 0 {
		return
	}
	t.line("")
	t.row("PARTITION", "FROM", "COMPARED", "UNTIL", "RECORDS", "DIFFERENCES", "PROBLEM")
	for _, p := range r.Partitions {
		t.row(fmt.Sprintf("%s/%d", p.SourceTopic, p.Partition), p.From, p.Next, p.Until, count(p.Records), count(p.Different), or(strings.TrimSpace(p.Problem+" "+p.Doubt)))
	}
}

func place(topic string, partition int32, offset int64) string {
	if offset < 0 {
		return "-"
	}
	return fmt.Sprintf("%s/%d@%d", topic, partition, offset)
}

// differenceText is a difference in one line.
func differenceText(d verify.Difference) string {
	text := fmt.Sprintf("%s %s", d.Kind, place(d.SourceTopic, d.Partition, d.Source))
	if d.Source < 0 {
		text = fmt.Sprintf("%s %s", d.Kind, place(d.DestinationTopic, d.Partition, d.Destination))
	} else if d.Destination >= 0 {
		text += ", " + place(d.DestinationTopic, d.Partition, d.Destination)
	}
	text += ": " + d.What
	if d.Changed != "" {
		text += " (changed: " + d.Changed + ")"
	}
	return text
}
