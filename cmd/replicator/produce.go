package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

// longestLine is what 'produce' takes for one record: the most that a topic
// takes by default, with room for its key.
const longestLine = 1 << 20

func newProduce() *cobra.Command {
	var at clusterFlags
	var form lineForm
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Write standard input to a topic, a record a line",
		Example: `  echo 'us:hello' | replicator produce greetings -b 127.0.0.1:9092 --key-separator :
  echo 'us:NULL' | replicator produce greetings -b 127.0.0.1:9092 --key-separator : --null NULL`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := at.client(kgo.DefaultProduceTopic(args[0]), kgo.RecordDeliveryTimeout(kafkaLimit))
			if err != nil {
				return err
			}
			defer cl.Close()
			if err := needTopic(cmd.Context(), cl, args[0]); err != nil {
				return err
			}
			n, err := produceLines(cmd.Context(), cl, cmd.InOrStdin(), form)
			fmt.Fprintf(cmd.ErrOrStderr(), "%s acknowledged\n", several(n, "record"))
			return kafkaError(cmd.Context(), err)
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&form.separator, "key-separator", "", "what stands between key and value; without it records have no key")
	cmd.Flags().StringVar(&form.null, "null", "", "text of a key or value that is to be null (a value of null deletes its key in a compacted topic)")
	return cmd
}

// lineForm says how a line is a record.
type lineForm struct {
	separator string // between key and value; "" if there are no keys
	null      string // stands for null; "" if nothing does
}

func (f lineForm) record(line []byte) *kgo.Record {
	r := &kgo.Record{Value: bytes.Clone(line)}
	if r.Value == nil {
		r.Value = []byte{} // an empty line is an empty value, not null
	}
	if key, value, ok := bytes.Cut(r.Value, []byte(f.separator)); ok && f.separator != "" {
		r.Key, r.Value = key, value
	}
	if f.null != "" && string(r.Key) == f.null {
		r.Key = nil
	}
	if f.null != "" && string(r.Value) == f.null {
		r.Value = nil
	}
	return r
}

// produceLines returns how many records were acknowledged, and the first error,
// after which nothing is read any more.
func produceLines(ctx context.Context, cl *kgo.Client, in io.Reader, form lineForm) (acked int, err error) {
	var mu sync.Mutex
	var first error
	failed := func() error {
		mu.Lock()
		defer mu.Unlock()
		return first
	}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longestLine)
	n := 0
	for failed() == nil && lines.Scan() {
		n++
		line := n
		cl.Produce(ctx, form.record(lines.Bytes()), func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acked++
			} else if first == nil {
				first = fmt.Errorf("produce line %d: %w", line, err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return acked, err
	}
	err = failed()
	switch {
	case err != nil:
	case errors.Is(lines.Err(), bufio.ErrTooLong):
		err = fmt.Errorf("line %d has more than %d bytes", n+1, longestLine)
	case lines.Err() != nil:
		err = fmt.Errorf("read input: %w", lines.Err())
	}
	return acked, err
}
