package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// stage prints the story: a line an act, then the verdict.
type stage struct {
	w     io.Writer
	color bool
	acts  int
}

// paint adds an ANSI style where colours are wanted.
func (s *stage) paint(style, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (s *stage) title(text string) { fmt.Fprintf(s.w, "%s\n\n", s.paint(bold, text)) }

func (s *stage) line(ok bool, name, figure, proof string, took time.Duration) {
	s.acts++
	mark := s.paint(green, "✔")
	if !ok {
		mark = s.paint(red, "✘")
	}
	fmt.Fprintf(s.w, "%s %2d  %-30s %s  %s\n", mark, s.acts, name, figure, s.paint(dim, fmt.Sprintf("%.1f s", took.Seconds())))
	if proof != "" {
		fmt.Fprintf(s.w, "      %-30s %s\n", "", s.paint(dim, proof))
	}
}

func (s *stage) note(text string) { fmt.Fprintf(s.w, "      %s\n", s.paint(red, text)) }

// several is a count and its noun.
func several(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// verdict is the proof in a few figures.
func (s *stage) verdict(r *Report) {
	fmt.Fprintln(s.w)
	if !r.OK {
		fmt.Fprintln(s.w, s.paint(red, fmt.Sprintf("FAILED: %s of those above did not hold", several(len(r.Failures), "check"))))
		return
	}
	exact := 0
	for _, g := range r.Groups {
		if g.Exact {
			exact++
		}
	}
	figures := []string{
		fmt.Sprintf("%d produced, %d mirrored", r.Produced, r.Mirrored),
		fmt.Sprintf("%d missing, %d doubled, %d reordered, %d altered", r.Missing, r.Duplicated, r.Reordered, r.Mismatched+r.Phantom),
		fmt.Sprintf("%d of %d groups exact", exact, len(r.Groups)),
		fmt.Sprintf("takeover in %.1f s", r.FailoverSeconds),
	}
	fmt.Fprintln(s.w, s.paint(green, "PROVEN  ")+strings.Join(figures, " · ")+s.paint(dim, fmt.Sprintf("  (%.0f s)", r.Seconds)))
}

// Invitation is what to try while everything goes on running.
func Invitation(r *Report, program string) string {
	c := r.Connections
	var b strings.Builder
	row := func(what, where string) { fmt.Fprintf(&b, "  %-12s %s\n", what, where) }
	b.WriteString("\nEverything goes on running until Ctrl-C:\n")
	row("us", c.US.BootstrapServers+"  (SASL_SSL, SCRAM-SHA-512)")
	row("eu", c.EU.BootstrapServers+"  (SASL_SSL, SCRAM-SHA-512)")
	for _, n := range c.Fleet {
		if n.Name != r.Killed {
			row("node "+n.Name, n.API+"/api/openapi.json  "+n.API+"/metrics")
		}
	}
	row("files", c.Dir)
	api := ""
	for _, n := range c.Fleet {
		if n.Name != r.Killed {
			api = n.API
			break
		}
	}
	fmt.Fprintf(&b, "\nTry, in another terminal:\n  export WAYBILL_SERVER=%s WAYBILL_TOKEN_FILE=%s\n", api, c.TokenFile)
	for _, try := range []string{
		"status", "groups list --flow " + flowName, "lineage event " + r.Lineage.Event,
		"runbook report " + r.Runbook.Name, "consume " + topicQuakes + " -f " + c.Objects + " --cluster eu -n 3",
	} {
		fmt.Fprintf(&b, "  %s %s\n", program, try)
	}
	return b.String()
}
