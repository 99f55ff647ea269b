package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

func newProduce() *cobra.Command {
	var at clusterFlags
	var separator string
	cmd := &cobra.Command{
		Use:     "produce TOPIC",
		Short:   "Write standard input to a topic, a record a line",
		Example: `  echo 'us:hello' | replicator produce greetings -b 127.0.0.1:9092 --key-separator :`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := at.client(kgo.DefaultProduceTopic(args[0]))
			if err != nil {
				return err
			}
			defer cl.Close()
			n, err := produceLines(cmd.Context(), cl, cmd.InOrStdin(), separator)
			fmt.Fprintf(cmd.ErrOrStderr(), "%d records acknowledged\n", n)
			return err
		},
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&separator, "key-separator", "", "what stands between key and value; without it records have no key")
	return cmd
}

// produceLines returns how many records were acknowledged, and the first error.
func produceLines(ctx context.Context, cl *kgo.Client, in io.Reader, separator string) (acked int, err error) {
	var mu sync.Mutex
	var first error
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		r := &kgo.Record{Value: bytes.Clone(lines.Bytes())}
		if key, value, ok := bytes.Cut(r.Value, []byte(separator)); ok && separator != "" {
			r.Key, r.Value = key, value
		}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acked++
			} else if first == nil {
				first = fmt.Errorf("produce: %w", err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return acked, err
	}
	mu.Lock()
	defer mu.Unlock()
	if first == nil && lines.Err() != nil {
		first = fmt.Errorf("read input: %w", lines.Err())
	}
	return acked, first
}
