package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/lineage/search"
)

func lineageExport() *cobra.Command {
	return family(&cobra.Command{
		Use:   "export",
		Short: "Lineage in the forms of other tools: CSV, NDJSON, OpenLineage, OpenTelemetry",
		Example: `  replicator lineage export table us/orders/3 --what accessed -o csv > accesses.csv
  replicator lineage export openlineage us/orders > events.ndjson
  replicator lineage export otlp us/orders/3/1041 > spans.json
  replicator lineage export digests us/orders/3 --key-file digest.key > digests.csv`,
	}, exportTable(), exportOpenLineage(), exportOTLP(), exportDigests())
}

func exportTable() *cobra.Command {
	var fleet server
	var topicID, what, format, principal string
	var from, to int64
	cmd := &cobra.Command{
		Use: "table CLUSTER/TOPIC/PARTITION", Short: "Productions, accesses or gaps of a partition as CSV or NDJSON", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 3)
			if err != nil {
				return err
			}
			for cursor := ""; ; {
				q := query("topicId", topicID, "what", what, "from", strconv.FormatInt(from, 10), "to", strconv.FormatInt(to, 10), "principal", principal, "format", format, "cursor", cursor)
				part, next, err := fleet.part(cmd.Context(), http.MethodGet, "/api/v1/lineage/export/"+path+q, nil)
				if err != nil {
					return err
				}
				if cursor != "" && format == "csv" {
					part = withoutHeading(part)
				}
				if _, err := cmd.OutOrStdout().Write(part); err != nil {
					return err
				}
				if cursor = next; cursor == "" {
					return nil
				}
			}
		},
	}
	f := cmd.Flags()
	what = "accessed"
	f.Var(&choice{&what, []string{"accessed", "produced", "gaps"}}, "what", "accessed, produced or gaps")
	f.Int64Var(&from, "from", 0, "first offset")
	f.Int64Var(&to, "to", -1, "last offset; -1 is the end")
	f.StringVar(&principal, "principal", "", "only this one's, such as User:billing")
	formatFlag(cmd, &format, "csv", "ndjson")
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	return cmd
}

// withoutHeading is a table without its first line.
func withoutHeading(table []byte) []byte {
	for i, c := range table {
		if c == '\n' {
			return table[i+1:]
		}
	}
	return nil
}

// part is one part of an export, and the cursor of the next.
func (s *server) part(ctx context.Context, method, path string, send []byte) (body []byte, next string, err error) {
	client, err := s.http()
	if err != nil {
		return nil, "", err
	}
	defer client.CloseIdleConnections()
	bounded := ctx
	if s.timeout > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	req, err := s.request(bounded, method, path, send)
	if err != nil {
		return nil, "", err
	}
	if send != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", s.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		return nil, "", s.unreachable(ctx, err)
	}
	if resp.StatusCode >= 400 {
		return nil, "", problem(resp.StatusCode, body)
	}
	return body, resp.Header.Get("Waybill-Next"), nil
}

func exportOpenLineage() *cobra.Command {
	var fleet server
	var topicID string
	cmd := &cobra.Command{
		Use: "openlineage CLUSTER/TOPIC", Short: "What a topic is copied from and to, as OpenLineage run events, one a line", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 2)
			if err != nil {
				return err
			}
			events, _, err := fleet.part(cmd.Context(), http.MethodGet, "/api/v1/lineage/openlineage/"+path+query("topicId", topicID), nil)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(events)
			return err
		},
	}
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	return cmd
}

func exportOTLP() *cobra.Command {
	var fleet server
	var topicID string
	cmd := &cobra.Command{
		Use: "otlp CLUSTER/TOPIC/PARTITION/OFFSET", Short: "The hops of one event as OpenTelemetry spans (OTLP/JSON)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 4)
			if err != nil {
				return err
			}
			var traces json.RawMessage
			if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/lineage/otlp/"+path+query("topicId", topicID), nil, &traces); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", traces)
			return err
		},
	}
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	return cmd
}

func exportDigests() *cobra.Command {
	var fleet server
	var keyFile, format string
	var from, to int64
	cmd := &cobra.Command{
		Use:   "digests CLUSTER/TOPIC/PARTITION",
		Short: "Keyed digests (HMAC-SHA-256) of the records of a range",
		Long: `Keyed digests (HMAC-SHA-256) of the records of a range.

Equal records have equal digests, wherever they lie: two parties with one key can
compare what they have without showing it. The key goes to the node, which reads
the records for you and does not keep it.`,
		Example: `  head -c 32 /dev/urandom > digest.key
  replicator lineage export digests us/orders/3 --from 1000 --to 2000 --key-file digest.key`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 3)
			if err != nil {
				return err
			}
			key, err := os.ReadFile(keyFile)
			if err != nil {
				return withCode(exitInvalid, fmt.Errorf("--key-file: %w", err))
			}
			if len(key) < search.MinDigestKey || len(key) > search.MaxDigestKey {
				return withCode(exitInvalid, fmt.Errorf("--key-file %s has %d bytes: from %d to %d", keyFile, len(key), search.MinDigestKey, search.MaxDigestKey))
			}
			for first := true; ; first = false {
				q := query("from", strconv.FormatInt(from, 10), "to", strconv.FormatInt(to, 10), "format", format)
				part, next, err := fleet.part(cmd.Context(), http.MethodPost, "/api/v1/lineage/digests/"+path+q, key)
				if err != nil {
					return err
				}
				if !first && format == "csv" {
					part = withoutHeading(part)
				}
				if _, err := cmd.OutOrStdout().Write(part); err != nil {
					return err
				}
				if next == "" {
					return nil
				}
				if from, err = strconv.ParseInt(next, 10, 64); err != nil {
					return fmt.Errorf("the node says to go on at %q", next)
				}
			}
		},
	}
	f := cmd.Flags()
	f.StringVar(&keyFile, "key-file", "", "file with the key, 16 to 4096 bytes")
	_ = cmd.MarkFlagRequired("key-file") // fails only if there is no such flag
	f.Int64Var(&from, "from", 0, "first offset")
	f.Int64Var(&to, "to", -1, "last offset; -1 is the end")
	formatFlag(cmd, &format, "csv", "ndjson")
	fleet.flags(cmd)
	return cmd
}
