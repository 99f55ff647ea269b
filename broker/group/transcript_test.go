package group

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestTranscripts runs the stories in testdata. A line is a time and an event;
// the effects that follow it stand on lines that begin with "->".
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("transcript differs; got:\n%s", got)
			}
		})
	}
}

type story struct {
	t      *testing.T
	group  *Group
	now    time.Time
	names  map[Token]string
	tokens Token
	saved  []byte
}

var epoch = time.UnixMilli(1_000_000).UTC()

func replay(t *testing.T, script string) string {
	s := &story{t: t, names: map[Token]string{}, now: epoch}
	s.group = New("g", Rules{}, epoch)
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "->") {
			continue
		}
		out.WriteString(line + "\n")
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		for _, l := range s.do(fields) {
			out.WriteString("-> " + l + "\n")
		}
	}
	return out.String()
}

// do runs one line: TIME VERB WHO [key=value]...
func (s *story) do(fields []string) []string {
	s.t.Helper()
	if fields[0] == "rules" {
		a := args(fields[1:])
		s.group.rules = Rules{
			InitialDelay: duration(s.t, a["delay"], 0),
			MaxMembers:   int(number(s.t, a["members"], 0)),
			MaxBytes:     int(number(s.t, a["bytes"], 0)),
		}
		return nil
	}
	at, err := time.ParseDuration(fields[0])
	if err != nil || len(fields) < 2 {
		s.t.Fatalf("cannot read %q: %v", fields, err)
	}
	s.now = epoch.Add(at)
	e, ok := s.event(fields[1:])
	if !ok {
		return nil
	}
	var lines []string
	if e != nil {
		for _, f := range s.group.Step(s.now, e) {
			if _, ok := f.(Save); ok {
				s.saved = s.group.value(Part{})
			}
			lines = append(lines, s.print(f))
		}
	} else if fields[1] == "crash" {
		s.crash()
	} else {
		lines = append(lines, s.commit(args(fields[2:])))
	}
	wake := "never"
	if w := s.group.Wake(); !w.IsZero() {
		wake = w.Sub(epoch).String()
	}
	return append(lines, fmt.Sprintf("%s generation=%d members=%d wake=%s", s.group.state, s.group.generation, len(s.group.members), wake))
}

// crash forgets what is not saved.
func (s *story) crash() {
	s.t.Helper()
	rules := s.group.rules
	if s.saved == nil {
		s.group = New("g", rules, s.now)
		return
	}
	var v kmsg.GroupMetadataValue
	if err := v.ReadFrom(s.saved); err != nil {
		s.t.Fatal(err)
	}
	s.group = restore("g", rules, &v, s.now)
}

func (s *story) commit(a map[string]string) string {
	_, txn := a["transactional"]
	err := s.group.CheckCommit(s.now, a["id"], a["instance"], int32(number(s.t, a["generation"], -1)), txn)
	return "commit" + problem(err)
}

func (s *story) event(f []string) (Event, bool) {
	verb, a := f[0], args(f[1:])
	var to Token
	if verb != "tick" && verb != "commit" && verb != "crash" {
		s.tokens++
		to = s.tokens
		s.names[to] = f[1]
		if strings.Contains(f[1], "=") {
			s.t.Fatalf("who does %q?", f)
		}
	}
	switch verb {
	case "join":
		j := Join{
			To: to, MemberID: a["id"], InstanceID: a["instance"], NewMemberID: a["new"],
			ClientID: "client", ClientHost: "/127.0.0.1",
			SessionTimeout:   duration(s.t, a["session"], 10*time.Second),
			RebalanceTimeout: duration(s.t, a["rebalance"], 30*time.Second),
			ProtocolType:     "consumer",
		}
		for p := range strings.SplitSeq(a["protocols"], ",") {
			name, meta, _ := strings.Cut(p, ":")
			j.Protocols = append(j.Protocols, Protocol{name, []byte(meta)})
		}
		if a["protocols"] == "" {
			j.Protocols = []Protocol{{"range", []byte("t")}}
		}
		if v, ok := a["type"]; ok {
			j.ProtocolType = v
		}
		_, j.RequireMemberID = a["v4"]
		_, j.CanSkipAssignment = a["v9"]
		return j, true
	case "sync":
		e := Sync{To: to, MemberID: a["id"], InstanceID: a["instance"], Generation: int32(number(s.t, a["generation"], 1))}
		if v, ok := a["protocol"]; ok {
			e.Protocol = &v
		}
		if v := a["assign"]; v != "" {
			e.Assignments = map[string][]byte{}
			for p := range strings.SplitSeq(v, ",") {
				id, what, _ := strings.Cut(p, ":")
				e.Assignments[id] = []byte(what)
			}
		}
		return e, true
	case "beat":
		return Heartbeat{To: to, MemberID: a["id"], InstanceID: a["instance"], Generation: int32(number(s.t, a["generation"], 1))}, true
	case "leave":
		var l Leave
		l.To = to
		for p := range strings.SplitSeq(a["members"], ",") {
			id, instance, _ := strings.Cut(p, ":")
			l.Members = append(l.Members, Leaver{id, instance})
		}
		return l, true
	case "tick":
		return Tick{}, true
	case "commit", "crash":
		return nil, true
	}
	s.t.Fatalf("unknown verb %q", verb)
	return nil, false
}

func (s *story) print(e Effect) string {
	switch e := e.(type) {
	case Joined:
		l := s.names[e.To] + " joined" + problem(e.Err) + " id=" + e.MemberID
		if e.Err == nil {
			l += fmt.Sprintf(" generation=%d leader=%s protocol=%s", e.Generation, e.Leader, e.Protocol)
		}
		for _, m := range e.Members {
			l += fmt.Sprintf(" [%s %s %s]", m.MemberID, m.InstanceID, m.Metadata)
		}
		if e.SkipAssignment {
			l += " skip-assignment"
		}
		return l
	case Synced:
		l := s.names[e.To] + " synced" + problem(e.Err)
		if e.Err == nil {
			l += fmt.Sprintf(" assignment=%q", e.Assignment)
		}
		return l
	case Beaten:
		return s.names[e.To] + " beaten" + problem(e.Err)
	case Left:
		l := s.names[e.To] + " left"
		for _, err := range e.Members {
			l += problem(err)
		}
		return l
	case Save:
		return "save"
	}
	return fmt.Sprintf("%T", e)
}

func problem(err error) string {
	var k *kerr.Error
	switch {
	case err == nil:
		return " ok"
	case errors.As(err, &k):
		return " " + k.Message
	}
	return " " + err.Error()
}

func args(f []string) map[string]string {
	m := map[string]string{}
	for _, x := range f {
		k, v, _ := strings.Cut(x, "=")
		m[k] = v
	}
	return m
}

func duration(t *testing.T, s string, def time.Duration) time.Duration {
	if s == "" {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func number(t *testing.T, s string, def int64) int64 {
	if s == "" {
		return def
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
