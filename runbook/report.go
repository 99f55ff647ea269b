package runbook

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Markdown is the report: what was done, when, by whom, with all evidence. It can
// be made at any time; the JSON of the execution holds the same.
func (x Execution) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Runbook %s: %s\n\n", escape(x.Runbook), x.State)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "- %s: %s\n", name, escape(value))
		}
	}
	row("Execution", x.ID)
	row("Flow", x.Flow)
	row("Started", stamp(x.Started))
	if !x.Ended.IsZero() {
		row("Ended", stamp(x.Ended)+", after "+span(x.Ended.Sub(x.Started)))
	}
	row("Last run by node", x.Node)
	row("Problem", x.Problem)
	row("Waits for", x.Waiting())

	b.WriteString("\n| # | Step | State | Took | What it does |\n|---|---|---|---|---|\n")
	for i, s := range x.Steps {
		took := ""
		if !s.Ended.IsZero() {
			took = span(s.Ended.Sub(s.Started))
		}
		fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", i+1, escape(s.Spec.ID), s.State, took, escape(Describe(&s.Spec).Does))
	}
	b.WriteString("\n## History\n\n")
	entries(&b, x.History)
	for i, s := range x.Steps {
		if len(s.Evidence) == 0 && s.Problem == "" {
			continue
		}
		fmt.Fprintf(&b, "\n## %d. %s: %s\n\n", i+1, escape(s.Spec.ID), s.State)
		if s.Attempts > 1 {
			fmt.Fprintf(&b, "Begun %d times.\n\n", s.Attempts)
		}
		entries(&b, s.Evidence)
	}
	return b.String()
}

func entries(b *strings.Builder, all []Entry) {
	for _, e := range all {
		fmt.Fprintf(b, "- %s, %s: %s\n", stamp(e.At), escape(e.By), escape(e.Text))
		for _, f := range e.Facts {
			fmt.Fprintf(b, "  - %s: %s\n", escape(f.Name), escape(f.Value))
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000Z") }

func span(d time.Duration) string { return d.Round(time.Millisecond).String() }

// escape keeps names and people's words from being read as Markdown or HTML.
var escaper = strings.NewReplacer(
	"\n", " ", "\r", " ", `\`, `\\`, "`", "\\`", "|", `\|`, "*", `\*`, "_", `\_`,
	"<", "&lt;", ">", "&gt;", "&", "&amp;", "[", `\[`, "]", `\]`, "#", `\#`,
)

func escape(s string) string { return escaper.Replace(s) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func list(items []string) string { return strings.Join(items, ", ") }
