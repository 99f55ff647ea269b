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

// consumed is a record as 'consume' prints it. Bytes that are no UTF-8 are
// printed as base64, in the fields that say so; null is neither.
type consumed struct {
	Topic      string           `json:"topic"`
	Partition  int32            `json:"partition"`
	Offset     int64            `json:"offset"`
	Time       time.Time        `json:"time"`
	Key        *string          `json:"key"`
	KeyBytes   []byte           `json:"keyBase64,omitempty"`
	Value      *string          `json:"value"`
	ValueBytes []byte           `json:"valueBase64,omitempty"`
	Headers    []consumedHeader `json:"headers,omitempty"` // in order; keys may come again
}

type consumedHeader struct {
	Key        string  `json:"key"`
	Value      *string `json:"value"`
	ValueBytes []byte  `json:"valueBase64,omitempty"`
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
			if err := needTopic(cmd.Context(), cl, args[0]); err != nil {
				return err
			}
			c := consumer{client: cl, group: group != "", out: cmd.OutOrStdout(), asValue: format == "value", limit: limit, wait: wait}
			err = c.run(cmd.Context())
			fmt.Fprintln(cmd.ErrOrStderr(), several(c.printed, "record"))
			return kafkaError(cmd.Context(), err)
		},
	}
	at.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&group, "group", "g", "", "read as this consumer group and commit what was printed")
	f.IntVarP(&limit, "max", "n", 0, "stop after so many records; 0: no limit")
	f.DurationVar(&wait, "wait", 2*time.Second, "stop when nothing came for so long; 0: go on until interrupted")
	f.BoolVar(&uncommitted, "uncommitted", false, "also records of open and aborted transactions")
	formatFlag(cmd, &format, "jsonl", "value")
	return cmd
}

// consumer prints until its limit, until nothing comes for wait, or until its
// context ends; all three are no errors.
type consumer struct {
	client  *kgo.Client
	group   bool // commit what was printed
	out     io.Writer
	asValue bool
	limit   int           // 0: none
	wait    time.Duration // 0: for ever
	printed int
}

func (c *consumer) run(ctx context.Context) error {
	for {
		fetches, quiet := c.poll(ctx)
		if quiet || ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("consume: %w", err)
		}
		last, err := c.print(fetches)
		// Also after a signal: what was printed must not be printed again.
		if err := errors.Join(err, c.commit(context.WithoutCancel(ctx), last)); err != nil {
			return err
		}
		if c.printed == c.limit && c.limit > 0 {
			return nil
		}
	}
}

// poll waits for records; quiet says that none came in time. The first wait is
// longer: a group may have to rebalance before anything comes.
func (c *consumer) poll(ctx context.Context) (f kgo.Fetches, quiet bool) {
	if c.wait == 0 {
		return c.client.PollFetches(ctx), false
	}
	wait := c.wait
	if c.printed == 0 {
		wait += 8 * time.Second
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	f = c.client.PollFetches(bounded)
	return f, f.NumRecords() == 0 && bounded.Err() != nil
}

// print prints what the limit allows and returns the last record of each
// partition.
func (c *consumer) print(fetches kgo.Fetches) (map[int32]*kgo.Record, error) {
	last := map[int32]*kgo.Record{}
	for it := fetches.RecordIter(); !it.Done() && (c.limit == 0 || c.printed < c.limit); {
		r := it.Next()
		if err := printRecord(c.out, r, c.asValue); err != nil {
			return last, err
		}
		last[r.Partition] = r
		c.printed++
	}
	return last, nil
}

func (c *consumer) commit(ctx context.Context, last map[int32]*kgo.Record) error {
	if !c.group || len(last) == 0 {
		return nil
	}
	var records []*kgo.Record
	for _, r := range last {
		records = append(records, r)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.client.CommitRecords(ctx, records...); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func printRecord(w io.Writer, r *kgo.Record, asValue bool) error {
	if asValue {
		_, err := fmt.Fprintf(w, "%s\n", r.Value)
		return err
	}
	c := consumed{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC()}
	c.Key, c.KeyBytes = readable(r.Key)
	c.Value, c.ValueBytes = readable(r.Value)
	for _, h := range r.Headers {
		value, raw := readable(h.Value)
		c.Headers = append(c.Headers, consumedHeader{h.Key, value, raw})
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(c)
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
