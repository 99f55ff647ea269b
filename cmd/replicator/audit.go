package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
)

func newAudit() *cobra.Command {
	var fleet server
	var out output
	var since, until string
	var q api.AuditQuery
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Who did what, when, from where, and what came of it",
		Long: `Who did what, when, from where, and what came of it.

Every accepted change is on every node. What was refused, and who has looked at
lineage or at this trail, is kept by the node that was asked, and asked of all of
them. Only admins may see it.`,
		Example: `  replicator audit --since 24h
  replicator audit --object ReplicationFlow/us-eu
  replicator audit --user ops --since 2026-11-24T08:00:00Z -o jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if q.Since, err = moment(since, time.Now()); err != nil {
				return withCode(exitInvalid, fmt.Errorf("--since %s: %w", since, err))
			}
			if q.Until, err = moment(until, time.Now()); err != nil {
				return withCode(exitInvalid, fmt.Errorf("--until %s: %w", until, err))
			}
			all := api.AuditPage{Entries: []api.AuditEntry{}}
			for {
				var page api.AuditPage
				if err := fleet.call(cmd.Context(), http.MethodGet, "/api/v1/audit?"+auditValues(q).Encode(), nil, &page); err != nil {
					return err
				}
				all.Missing, all.Damage = page.Missing, append(all.Damage, page.Damage...)
				if out.format == "jsonl" {
					if err := printEntries(cmd.OutOrStdout(), page.Entries); err != nil {
						return err
					}
				} else {
					all.Entries = append(all.Entries, page.Entries...)
				}
				if q.Cursor = page.Next; q.Cursor == "" {
					break
				}
			}
			if out.format == "jsonl" {
				t := newTable(cmd.ErrOrStderr())
				drawIncomplete(t, all)
				return t.close()
			}
			return out.print(cmd.OutOrStdout(), all, func(t *table) { drawAudit(t, all) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "24h", "how long ago, or a time (RFC 3339); 0: all there is")
	f.StringVar(&until, "until", "", "likewise; before it")
	f.StringVar(&q.User, "user", "", "only this user's")
	f.StringVar(&q.Object, "object", "", "only about this object, such as ReplicationFlow/us-eu, or a part of the target")
	f.StringVar(&q.Operation, "operation", "", "only this operation, as the description of the API names it, such as apply")
	f.StringVar(&q.Source, "source", "", "fleet: only accepted changes; node: only what a node alone knows")
	fleet.flags(cmd)
	out.flag(cmd)
	return cmd
}

// moment reads a time, or how long it is ago; the zero time if there is nothing.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" || text == "0" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		if d < 0 {
			return time.Time{}, fmt.Errorf("is in the future")
		}
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("is neither a duration like 90m nor a time like %s", now.UTC().Format(time.RFC3339))
	}
	return t, nil
}

const auditPage = 1000 // the most that one answer may have

func auditValues(q api.AuditQuery) url.Values {
	v := url.Values{"limit": {strconv.Itoa(auditPage)}}
	for name, value := range map[string]string{"user": q.User, "object": q.Object, "operation": q.Operation, "source": q.Source, "cursor": q.Cursor} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			v.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	return v
}

func printEntries(w io.Writer, entries []api.AuditEntry) error {
	enc := json.NewEncoder(w)
	for i := range entries {
		if err := enc.Encode(&entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func drawAudit(t *table, p api.AuditPage) {
	t.row("TIME", "USER", "FROM", "NODE", "OPERATION", "RESULT", "REVISION", "WHAT")
	for i := range p.Entries {
		e := &p.Entries[i]
		revision := "-"
		if e.Revision > 0 {
			revision = decimal(e.Revision)
		}
		t.row(e.Time.UTC().Format("2006-01-02T15:04:05Z"), or(e.User), or(e.Address), e.Node, e.Operation, auditResult(e), revision, or(auditWhat(e)))
	}
	drawIncomplete(t, p)
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func auditResult(e *api.AuditEntry) string {
	switch {
	case e.Status < 400:
		return "done"
	case e.Status < 500:
		return fmt.Sprintf("refused (%d)", e.Status)
	}
	return fmt.Sprintf("failed (%d)", e.Status)
}

// auditWhat is one line: what it was about, and why it was refused.
func auditWhat(e *api.AuditEntry) string {
	var parts []string
	for _, o := range e.Objects {
		text := strings.TrimSpace(o.Action + " " + o.Key)
		if o.Before != 0 || o.After != 0 {
			text += fmt.Sprintf(" (%d to %d)", o.Before, o.After)
		}
		if len(o.Diff) > 0 {
			text += ": " + strings.Join(o.Diff, "; ")
		}
		parts = append(parts, text)
	}
	if e.More > 0 {
		parts = append(parts, fmt.Sprintf("%d more", e.More))
	}
	if len(parts) == 0 && e.Target != "" {
		parts = append(parts, e.Target)
	}
	if e.Problem != "" {
		parts = append(parts, e.Problem)
	}
	if e.Reason != "" {
		parts = append(parts, "reason: "+e.Reason)
	}
	if e.Suppressed > 0 {
		parts = append(parts, fmt.Sprintf("and %d like it before, not kept", e.Suppressed))
	}
	return strings.Join(parts, "; ")
}

// drawIncomplete says what is not among the entries.
func drawIncomplete(t *table, p api.AuditPage) {
	for _, m := range p.Missing {
		t.line(fmt.Sprintf("  not asked: what node %s alone knows: %s", m.Node, m.Reason))
	}
	for _, d := range p.Damage {
		place := d.File
		if d.Line > 0 {
			place += fmt.Sprintf(":%d", d.Line)
		}
		t.line(fmt.Sprintf("  damaged: node %s, %s: %s", d.Node, place, d.Reason))
	}
}
