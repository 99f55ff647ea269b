package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/waybillhq/waybill/lineage/search"
)

// searchAsk is what a user of 'lineage search' asks for.
type searchAsk struct {
	key, keyBase64, trace, since, until, partitioner, cursor string
	partition                                                int32
	limit                                                    int
	maxBytes                                                 int64
}

func lineageSearch() *cobra.Command {
	var fleet server
	var out output
	var ask searchAsk
	cmd := &cobra.Command{
		Use:   "search CLUSTER/TOPIC",
		Short: "Find events by time, by key or by trace",
		Long: `Find events by time, by key or by trace.

With --since alone the answer is the first event of each partition that is stamped
then or later. For a key or a trace records are read, a partition after the other:
the command says which offsets it looked through, stops at --max-bytes, and prints
the cursor with which it goes on. What it has not looked through may hold more.`,
		Example: `  replicator lineage search us/orders --since 2026-11-27T08:00:00Z
  replicator lineage search us/orders --key order-17 --partitioner murmur2
  replicator lineage search us/orders --trace 4bf92f3577b34da6a3ce929d0e0e4736 --since 2026-11-27T08:00:00Z`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			page, err := searchPages(cmd.Context(), &fleet, args[0], ask)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), page, func(t *table) { drawSearch(t, page) })
		},
	}
	f := cmd.Flags()
	ask.flags(f)
	f.IntVar(&ask.limit, "limit", 1000, "how many events at the most")
	f.Int64Var(&ask.maxBytes, "max-bytes", 1<<30, "stop after so many bytes were read")
	f.StringVar(&ask.cursor, "cursor", "", "go on where a search ended; its times must be the same, so give them as times")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// flags are of what is looked for.
func (ask *searchAsk) flags(f *pflag.FlagSet) {
	f.StringVar(&ask.key, "key", "", "events with exactly this key")
	f.StringVar(&ask.keyBase64, "key-base64", "", "the same, of bytes")
	f.StringVar(&ask.trace, "trace", "", "events of this W3C trace: its id, or a whole traceparent")
	f.StringVar(&ask.since, "since", "", "from the first record on that is stamped then or later: how long ago, or a time (RFC 3339)")
	f.StringVar(&ask.until, "until", "", "up to the first record that is stamped then or later, likewise")
	f.Int32Var(&ask.partition, "partition", -1, "only this one; -1: all")
	f.StringVar(&ask.partitioner, "partitioner", "", "only the partition to which this one sends the key: murmur2, that of Kafka's Java client")
}

// settle checks what is looked for and makes its times those of a query.
func (ask *searchAsk) settle(now time.Time) error {
	for _, t := range []struct {
		flag string
		text *string
	}{{"since", &ask.since}, {"until", &ask.until}} {
		at, err := moment(*t.text, now)
		if err != nil {
			return withCode(exitInvalid, fmt.Errorf("--%s %s: %w", t.flag, *t.text, err))
		}
		if *t.text = ""; !at.IsZero() {
			*t.text = at.UTC().Format(time.RFC3339Nano)
		}
	}
	if _, err := base64.StdEncoding.DecodeString(ask.keyBase64); err != nil {
		return withCode(exitInvalid, fmt.Errorf("--key-base64: %w", err))
	}
	return nil
}

// query has what is looked for, and more, as a query of the API.
func (ask *searchAsk) query(more ...string) string {
	return query(append([]string{
		"key", ask.key, "keyBase64", ask.keyBase64, "traceId", ask.trace, "since", ask.since, "until", ask.until,
		"partition", strconv.Itoa(int(ask.partition)), "partitioner", ask.partitioner,
	}, more...)...)
}

// searchPages reads pages up to the limits.
func searchPages(ctx context.Context, fleet *server, address string, ask searchAsk) (*search.Page, error) {
	path, err := addressPath(address, 2)
	if err != nil {
		return nil, err
	}
	if ask.limit < 1 || ask.maxBytes < 1 {
		return nil, withCode(exitInvalid, fmt.Errorf("--limit %d, --max-bytes %d: at least 1", ask.limit, ask.maxBytes))
	}
	if err := ask.settle(time.Now()); err != nil {
		return nil, err
	}
	all := &search.Page{Events: []search.Event{}, Scanned: []search.Scanned{}, Next: ask.cursor}
	var read int64
	for {
		var page search.Page
		q := ask.query("limit", strconv.Itoa(min(pageSize, ask.limit-len(all.Events))), "cursor", all.Next)
		if err := fleet.call(ctx, http.MethodGet, "/api/v1/lineage/search/"+path+q, nil, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Scanned {
			read += s.Bytes
		}
		all.Events, all.Next = append(all.Events, page.Events...), page.Next
		all.Scanned, all.Unknown = joinScanned(all.Scanned, page.Scanned), append(all.Unknown, page.Unknown...)
		if page.Next == "" || len(all.Events) >= ask.limit || read >= ask.maxBytes {
			return all, nil
		}
	}
}

// joinScanned adds what another page looked through to what those before it did.
func joinScanned(all, more []search.Scanned) []search.Scanned {
	all = slices.Clone(all)
	for _, s := range more {
		if n := len(all); n > 0 && all[n-1].Partition == s.Partition && all[n-1].To == s.From {
			last := &all[n-1]
			last.To, last.Records, last.Bytes = s.To, last.Records+s.Records, last.Bytes+s.Bytes
			continue
		}
		all = append(all, s)
	}
	return all
}

func drawSearch(t *table, page *search.Page) {
	if len(page.Events) == 0 {
		t.line("nothing was found")
	} else {
		t.row("EVENT", "TIME")
	}
	for _, e := range page.Events {
		t.row(fmt.Sprintf("%s/%s/%d/%d", e.Cluster, e.Topic, e.Partition, e.Offset), e.Time.Local().Format("2006-01-02 15:04:05.000"))
	}
	if len(page.Scanned) > 0 {
		t.line("")
		t.row("LOOKED THROUGH", "FROM", "TO", "RECORDS", "BYTES")
		for _, s := range page.Scanned {
			t.row(fmt.Sprintf("partition %d", s.Partition), s.From, s.To-1, count(s.Records), count(s.Bytes))
		}
	}
	for _, u := range page.Unknown {
		t.line("unknown: " + u)
	}
	if page.Next != "" {
		t.line("not all was looked through: go on with --cursor " + page.Next)
	}
}
