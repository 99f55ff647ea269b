package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// consumed is a record as 'consume -o jsonl' prints it. Bytes that are not
// UTF-8 are printed as base64, in the fields that say so.
type consumed struct {
	Topic     string            `json:"topic"`
	Partition int32             `json:"partition"`
	Offset    int64             `json:"offset"`
	Time      time.Time         `json:"time"`
	Key       *string           `json:"key"`
	KeyBytes  []byte            `json:"keyBase64,omitempty"`
	Value     *string           `json:"value"`
	ValBytes  []byte            `json:"valueBase64,omitempty"`
	Headers   map[string]string `json:"headers,omitempty"`
}

func newConsume() *cobra.Command {
	var at clusterFlags
	var group, format string
	var limit int
	var wait time.Duration
	var uncommitted bool
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Print the records of a topic from its start, or from where a group stands",
		Example: `  replicator consume quakes -f clusters.yaml --cluster eu -n 10
  replicator consume quakes -b 127.0.0.1:9092 --group alerts -o value`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "jsonl" && format != "value" {
				return withCode(exitInvalid, fmt.Errorf("-o %s: the formats are jsonl, value", format))
			}
			opts := []kgo.Opt{kgo.ConsumeTopics(args[0]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}
			if !uncommitted {
				opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
			}
			if group != "" {
				opts = append(opts, kgo.ConsumerGroup(group), kgo.DisableAutoCommit())
			}
			cl, err := at.client(opts...)
			if err != nil {
				return err
			}
			defer cl.Close()
			n, err := consumeRecords(cmd.Context(), cl, cmd.OutOrStdout(), format, limit, wait)
			fmt.Fprintf(cmd.ErrOrStderr(), "%d records\n", n)
			return err
		},
	}
	at.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&group, "group", "g", "", "read as this consumer group and commit what was printed")
	f.IntVarP(&limit, "max", "n", 0, "stop after so many records; 0: no limit")
	f.DurationVar(&wait, "wait", 2*time.Second, "stop when nothing came for so long; 0: go on until interrupted")
	f.BoolVar(&uncommitted, "uncommitted", false, "also records of open and aborted transactions")
	f.StringVarP(&format, "output", "o", "jsonl", "format: jsonl, value")
	return cmd
}

// consumeRecords prints until the limit, until nothing comes for wait, or until
// ctx ends, and commits what was printed if the client has a group.
func consumeRecords(ctx context.Context, cl *kgo.Client, w io.Writer, format string, limit int, wait time.Duration) (n int, err error) {
	var last []*kgo.Record
	defer func() {
		if group, _ := cl.GroupMetadata(); group != "" && len(last) > 0 {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			if cerr := cl.CommitRecords(ctx, last...); cerr != nil {
				err = errors.Join(err, fmt.Errorf("commit: %w", cerr))
			}
		}
	}()
	for {
		fetches, quiet := pollOnce(ctx, cl, wait, n == 0)
		if quiet || ctx.Err() != nil {
			return n, nil
		}
		if err := fetches.Err(); err != nil {
			return n, fmt.Errorf("consume: %w", err)
		}
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			if err := printRecord(w, r, format); err != nil {
				return n, err
			}
			last = append(last, r)
			if n++; n == limit {
				return n, nil
			}
		}
	}
}

// pollOnce waits for records; quiet says that none came in time. The first
// wait is longer: a group may have to rebalance before anything comes.
func pollOnce(ctx context.Context, cl *kgo.Client, wait time.Duration, first bool) (f kgo.Fetches, quiet bool) {
	if wait == 0 {
		return cl.PollFetches(ctx), false
	}
	if first {
		wait += 8 * time.Second
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	f = cl.PollFetches(bounded)
	return f, f.NumRecords() == 0 && bounded.Err() != nil
}

func printRecord(w io.Writer, r *kgo.Record, format string) error {
	if format == "value" {
		_, err := fmt.Fprintf(w, "%s\n", r.Value)
		return err
	}
	c := consumed{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC()}
	c.Key, c.KeyBytes = readable(r.Key)
	c.Value, c.ValBytes = readable(r.Value)
	for _, h := range r.Headers {
		if c.Headers == nil {
			c.Headers = map[string]string{}
		}
		c.Headers[h.Key] = string(h.Value)
	}
	return json.NewEncoder(w).Encode(c)
}

// readable is the bytes as text, or as bytes if they are none. Null is neither.
func readable(b []byte) (*string, []byte) {
	if b == nil {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}
