package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage"
)

func lineageWatch() *cobra.Command {
	var fleet server
	var format string
	var kinds []string
	cmd := &cobra.Command{
		Use:   "watch CLUSTER[/TOPIC]",
		Short: "What is copied, produced and read, as it comes",
		Long: `What is copied, produced and read, as it comes.

Goes on until it is interrupted. When the connection breaks or the node stops it
connects again and goes on after what it had; what it missed in between is said.`,
		Example: `  replicator lineage watch us/orders
  replicator lineage watch eu --kind copied -o jsonl`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cluster, topic, _ := strings.Cut(args[0], "/")
			if cluster == "" || strings.Contains(topic, "/") {
				return withCode(exitInvalid, fmt.Errorf("%q is not an address: write CLUSTER or CLUSTER/TOPIC", args[0]))
			}
			q := url.Values{"kind": kinds}
			if topic != "" {
				q.Set("topic", topic)
			}
			w := watcher{server: &fleet, path: "/api/v1/lineage/stream/" + url.PathEscape(cluster) + "?" + q.Encode(), out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), asJSON: format == "jsonl"}
			return w.run(cmd.Context())
		},
	}
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these: "+strings.Join(lineage.StreamKinds, ", "))
	formatFlag(cmd, &format, "table", "jsonl")
	fleet.flags(cmd)
	return cmd
}

// watcher follows a stream over as many connections as it takes.
type watcher struct {
	server    *server
	path      string
	out, errs io.Writer
	asJSON    bool
	last      string // id of the last event
}

// reconnectPause is between two connections.
const reconnectPause = time.Second

// run ends with the context, or with what another connection would not help against.
func (w *watcher) run(ctx context.Context) error {
	for first := true; ; first = false {
		err := w.follow(ctx)
		var refused *codedError
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.As(err, &refused) && (first || refused.code != exitUnreachable) {
			return err
		}
		fmt.Fprintf(w.errs, "connecting again: %v\n", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(reconnectPause):
		}
	}
}

// follow prints what one connection brings and returns why it ended.
func (w *watcher) follow(ctx context.Context) error {
	client, err := w.server.http()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	req, err := w.server.request(ctx, http.MethodGet, w.path, nil)
	if err != nil {
		return err
	}
	if w.last != "" {
		req.Header.Set("Last-Event-ID", w.last)
	}
	resp, err := client.Do(req)
	if err != nil {
		return w.server.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		return problem(resp.StatusCode, raw)
	}
	return readEvents(resp.Body, w.event)
}

func (w *watcher) event(id, kind string, data []byte) error {
	if id != "" {
		w.last = id
	}
	switch kind {
	case "end":
		return fmt.Errorf("the stream has ended: %s", data)
	case "lineage":
	default:
		return nil
	}
	if w.asJSON {
		_, err := fmt.Fprintf(w.out, "%s\n", data)
		return err
	}
	var e lineage.StreamEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("event %s is not what this version expects: %w", id, err)
	}
	_, err := fmt.Fprintln(w.out, streamLine(&e))
	return err
}

// maxEventLine is the longest line of a stream that is read.
const maxEventLine = 1 << 20

// readEvents calls fn with each event of a stream (WHATWG HTML, server-sent events):
// also for one that has nothing but an id. It returns fn's error, or why the stream
// has ended.
func readEvents(r io.Reader, fn func(id, kind string, data []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEventLine)
	var id, kind string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			if id != "" || kind != "" || data != nil {
				if err := fn(id, kind, data); err != nil {
					return err
				}
			}
			id, kind, data = "", "", nil
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			id = string(value)
		case "event":
			kind = string(value)
		case "data":
			if len(data)+len(value) > maxEventLine {
				return fmt.Errorf("an event of more than %d bytes", maxEventLine)
			}
			if data == nil {
				data = []byte{}
			} else {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the connection broke: %w", err)
	}
	return errors.New("the connection was closed")
}

// streamLine is an event for people.
func streamLine(e *lineage.StreamEvent) string {
	at := strings.Repeat(" ", 12)
	if e.At != nil {
		at = e.At.Local().Format("15:04:05.000")
	}
	text := at + "  " + e.Kind
	switch {
	case e.Why != "":
		return text + ": " + e.Why
	case e.Deed != nil:
		who := "somebody"
		if !e.Deed.Redacted && e.Deed.Basis == "" { // commits do not say who
			who = e.Deed.Principal + " (" + or(e.Deed.ClientID) + ")"
		}
		if e.Deed.Group != "" {
			who += " as group " + e.Deed.Group
		}
		return text + " " + streamOffsets(e.Place) + " by " + who
	}
	text += " " + streamOffsets(e.Source)
	if e.Destination != nil {
		text += " to " + streamOffsets(e.Destination)
	}
	if e.Flow != "" {
		text += fmt.Sprintf(" by %s (node %s, epoch %d)", e.Flow, or(e.Node), e.Epoch)
	}
	if e.Lost != "" {
		text += ": the " + e.Lost + " has lost it"
	}
	for _, reason := range sortedNames(e.Gaps) {
		text += fmt.Sprintf(", %d %s", e.Gaps[reason], reason)
	}
	return text
}

func streamOffsets(s *lineage.Stretch) string {
	switch {
	case s == nil || s.Redacted:
		return "a place that you may not see"
	case s.First < 0:
		return fmt.Sprintf("%s/%s/%d, no offsets", s.Cluster, s.Topic, s.Partition)
	}
	return fmt.Sprintf("%s/%s/%d %d-%d", s.Cluster, s.Topic, s.Partition, s.First, s.Last)
}
