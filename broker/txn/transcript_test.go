package txn

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
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

var epoch = time.UnixMilli(1_000_000).UTC()

// TestTranscripts runs the stories in testdata: a time and an event per line, and
// after "->" the answer and the state that follows.
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

func replay(t *testing.T, script string) string {
	x := New("t")
	var out strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "->") {
			continue
		}
		out.WriteString(line + "\n")
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		at, err := time.ParseDuration(f[0])
		if err != nil {
			t.Fatal(err)
		}
		e := event(t, f[1:], &x)
		if e == nil {
			continue
		}
		if v, ok := e.(verify); ok {
			fmt.Fprintf(&out, "->%s\n", problem(x.verify(v.producer, v.partitions)))
			continue
		}
		next, changed, err := x.Step(epoch.Add(at), e)
		x = next
		fmt.Fprintf(&out, "->%s", problem(err))
		if changed {
			fmt.Fprintf(&out, "; now %s %d/%d", x.State, x.Producer.ID, x.Producer.Epoch)
			if next := x.nextProducer(); next != x.Producer {
				fmt.Fprintf(&out, " then %d/%d", next.ID, next.Epoch)
			}
			for _, tp := range x.Sorted() {
				fmt.Fprintf(&out, " %s-%d", tp.Topic, tp.Partition)
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}

type verify struct {
	Event
	producer   Producer
	partitions []TopicPartition
}

// event reads VERB [id/epoch] [key=value | topic-partition]...
func event(t *testing.T, f []string, x *Txn) Event {
	p := NoProducer
	fresh := int64(-1)
	version := V0
	timeout := time.Minute
	var partitions []TopicPartition
	for _, a := range f[1:] {
		switch {
		case strings.Contains(a, "/"):
			id, e, _ := strings.Cut(a, "/")
			p = Producer{number(t, id), int16(number(t, e))}
		case a == "v2":
			version = V2
		case strings.HasPrefix(a, "fresh="):
			fresh = number(t, a[6:])
		case strings.Contains(a, "-"):
			topic, part, _ := strings.Cut(a, "-")
			partitions = append(partitions, TopicPartition{topic, int32(number(t, part))})
		default:
			t.Fatalf("cannot read %q", a)
		}
	}
	switch f[0] {
	case "init":
		return Init{timeout, p, fresh}
	case "add":
		return Add{version, p, partitions}
	case "verify":
		return verify{nil, p, partitions}
	case "commit", "abort":
		return End{version, p, f[0] == "commit", fresh}
	case "settled":
		return Settled{}
	case "timeout":
		return Timeout{}
	case "set": // makes an epoch old
		x.Producer = p
		return nil
	}
	t.Fatalf("unknown verb %q", f[0])
	return nil
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

func number(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
