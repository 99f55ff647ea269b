package scenarios

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The list of invariants names the tests that hold them; each of these is there.
func TestInvariantsAreHeldByTestsThatExist(t *testing.T) {
	const root = "../.."
	page, err := os.ReadFile(filepath.Join(root, "docs", "invariants.md"))
	if err != nil {
		t.Fatal(err)
	}
	where := regexp.MustCompile("`([a-z][a-z/]*)`")
	name := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w+`)
	n := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		first := strings.TrimSpace(cells[min(1, len(cells)-1)])
		if len(cells) < 4 || strings.HasPrefix(first, "---") || first == "invariant" || first == "fault" || first == "a batch must" {
			continue
		}
		issues := issueNames.FindAllString(cells[2], -1)
		said := ""
		held := false
		for part := range strings.SplitSeq(strings.Join(cells[2:], ";"), ";") {
			names := name.FindAllString(part, -1)
			if len(names) == 0 {
				continue
			}
			in := where.FindStringSubmatch(part)
			if in == nil {
				t.Errorf("%q names no package", part)
				continue
			}
			source := sourceOfTests(t, filepath.Join(root, filepath.FromSlash(in[1])))
			for _, f := range names {
				held, n = true, n+1
				before, _, ok := strings.Cut(source, "\nfunc "+f+"(")
				if !ok {
					t.Errorf("%s has no %s", in[1], f)
				}
				said += commentAtTheEnd(before)
			}
		}
		for _, issue := range issues {
			if !strings.Contains(said, issue) {
				t.Errorf("none of the tests that hold it names %s:%s", issue, cells[1])
			}
		}
		if !held {
			t.Errorf("no test holds:%s", cells[1])
		}
	}
	if n < 50 {
		t.Errorf("only %d tests are named: has the form of the page changed?", n)
	}
}

// issueNames are those of Kafka's tracker and proposals, of other projects' issues and
// of their commits.
var issueNames = regexp.MustCompile(`KAFKA-\d+|KIP-\d+|\b[0-9a-f]{7,8}\b|\b\d{4}\b`)

// commentAtTheEnd are the lines of a comment with which source ends.
func commentAtTheEnd(source string) string {
	lines := strings.Split(source, "\n")
	first := len(lines)
	for first > 0 && strings.HasPrefix(lines[first-1], "//") {
		first--
	}
	return strings.Join(lines[first:], "\n")
}

func sourceOfTests(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}
