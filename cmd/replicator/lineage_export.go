package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

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
	}, exportTable(), exportPrincipal(), exportSearch(), exportOpenLineage(), exportOTLP(), exportDigests())
}

func exportTable() *cobra.Command {
	var fleet server
	var topicID, what, format, principal, direction string
	var from, to int64
	cmd := &cobra.Command{
		Use: "table CLUSTER/TOPIC/PARTITION", Short: "Productions, accesses, copies or gaps of a partition as CSV or NDJSON", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 3)
			if err != nil {
				return err
			}
			return fleet.exportPages(cmd, http.MethodGet, format, nil, func(next string) string {
				return "/api/v1/lineage/export/" + path + query("topicId", topicID, "what", what, "from", strconv.FormatInt(from, 10), "to", strconv.FormatInt(to, 10),
					"principal", principal, "direction", direction, "format", format, "cursor", next)
			})
		},
	}
	f := cmd.Flags()
	what = "accessed"
	f.Var(&choice{&what, []string{"accessed", "produced", "copies", "gaps"}}, "what", "accessed, produced, copies or gaps")
	f.Int64Var(&from, "from", 0, "first offset")
	f.Int64Var(&to, "to", -1, "last offset; -1 is the end")
	f.StringVar(&principal, "principal", "", "only this one's, such as User:billing")
	f.Var(&choice{&direction, []string{"both", "up", "down"}}, "direction", "of copies: both, up or down")
	formatFlag(cmd, &format, "csv", "ndjson")
	lifeFlag(cmd, &topicID)
	fleet.flags(cmd)
	return cmd
}

func exportPrincipal() *cobra.Command {
	var fleet server
	var format string
	cmd := &cobra.Command{
		Use: "principal CLUSTER NAME", Short: "What a principal produced and read in a cluster, by topic, as CSV or NDJSON", Args: cobra.ExactArgs(2),
		Example: "  replicator lineage export principal us User:billing",
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "/api/v1/lineage/principals/" + url.PathEscape(args[0]) + "/" + url.PathEscape(args[1]) + "/export"
			return fleet.exportPages(cmd, http.MethodGet, format, nil, func(next string) string {
				return path + query("format", format, "cursor", next)
			})
		},
	}
	formatFlag(cmd, &format, "csv", "ndjson")
	fleet.flags(cmd)
	return cmd
}

func exportSearch() *cobra.Command {
	var fleet server
	var format string
	var ask searchAsk
	cmd := &cobra.Command{
		Use: "search CLUSTER/TOPIC", Short: "What a search finds, and what it looked through, as CSV or NDJSON", Args: cobra.ExactArgs(1),
		Example: "  replicator lineage export search us/orders --key order-17 --since 1h",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := addressPath(args[0], 2)
			if err != nil {
				return err
			}
			if err := ask.settle(time.Now()); err != nil {
				return err
			}
			return fleet.exportPages(cmd, http.MethodGet, format, nil, func(next string) string {
				return "/api/v1/lineage/search/" + path + "/export" + ask.query("format", format, "limit", strconv.Itoa(pageSize), "cursor", next)
			})
		},
	}
	ask.flags(cmd.Flags())
	formatFlag(cmd, &format, "csv", "ndjson")
	fleet.flags(cmd)
	return cmd
}

// exportPages writes an export that comes in pages, of which each names the next: as one
// table, so with one heading. page is the path of a page, by what the one before it named, "" for the first.
func (s *server) exportPages(cmd *cobra.Command, method, format string, send []byte, page func(next string) (path string)) error {
	header := http.Header{}
	if send != nil {
		header.Set("Content-Type", "application/octet-stream")
	}
	for next := ""; ; {
		rows, answer, err := s.exchange(cmd.Context(), method, page(next), send, header)
		if err != nil {
			return err
		}
		if next != "" && format == "csv" {
			_, rows, _ = bytes.Cut(rows, []byte("\n"))
		}
		if _, err := cmd.OutOrStdout().Write(rows); err != nil {
			return err
		}
		if next = answer.Get("Waybill-Next"); next == "" {
			return nil
		}
	}
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
			events, err := fleet.fetch(cmd.Context(), http.MethodGet, "/api/v1/lineage/openlineage/"+path+query("topicId", topicID), nil, "")
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
			return fleet.exportPages(cmd, http.MethodPost, format, key, func(next string) string {
				if next == "" {
					next = strconv.FormatInt(from, 10)
				}
				return "/api/v1/lineage/digests/" + path + query("from", next, "to", strconv.FormatInt(to, 10), "format", format)
			})
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
