package test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/waybillhq/waybill"

// rules says which packages of this module a package may import besides the
// packages below itself. The longest matching name decides. "*" is everything.
// Tests may import anything: the bundled broker is everybody's fake.
var rules = map[string][]string{
	"cmd/replicator":       {"*"},
	"test":                 {"*"},
	"flow":                 {"internal/filter", "internal/mask"},
	"acl":                  {},
	"api":                  {"flow", "acl", "cluster", "mirror", "offsets", "lineage", "runbook", "verify", "doctor"},
	"doctor":               {"flow", "acl", "internal/kafka", "internal/mirrorwire"},
	"runbook":              {"flow"},
	"mirror":               {"flow", "internal/filter", "internal/kafka", "internal/mask", "internal/mirrorwire", "internal/record", "internal/ledger"},
	"offsets":              {"flow", "internal/kafka", "internal/ledger"},
	"verify":               {"flow", "internal/filter", "internal/kafka", "internal/record", "internal/ledger"},
	"lineage":              {"flow", "acl", "internal/kafka", "internal/ledger", "internal/record"},
	"cluster":              {"flow", "internal/raftnode"},
	"broker":               {"acl", "internal/mirrorwire", "internal/record", "internal/ledger", "internal/raftnode", "internal/vfs"},
	"internal/kafka":       {"flow", "internal/mirrorwire"},
	"internal/filter":      {"internal/record"},
	"internal/mask":        {},
	"internal/record":      {},
	"internal/ledger":      {},
	"internal/ledger/tail": {"internal/kafka", "internal/ledger"},
	"internal/mirrorwire":  {},
	"internal/raftnode":    {"internal/vfs"},
	"internal/vfs":         {},
}

// clientFree lists the packages that decide or serve and must not reach for a
// Kafka client: they meet other clusters only through somebody else.
var clientFree = []string{"cluster", "broker", "flow", "acl", "runbook"}

type pkg struct {
	ImportPath string
	Imports    []string
}

func TestImportRules(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		home, allowed, ok := ruleFor(name)
		if !ok {
			t.Errorf("%s: no rule says what it may import: add it to the table", name)
			continue
		}
		for _, imp := range p.Imports {
			if slices.ContainsFunc(clientFree, func(c string) bool { return below(name, c) }) && imp == "github.com/twmb/franz-go/pkg/kgo" {
				t.Errorf("%s imports a Kafka client: it decides or serves, it does not call", name)
			}
			imported, ours := strings.CutPrefix(imp, module+"/")
			if !ours || below(imported, home) || slices.Contains(allowed, "*") {
				continue
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return below(imported, a) }) {
				t.Errorf("%s imports %s, which its rule does not allow", name, imported)
			}
		}
	}
}

func TestNoPackageIsNamedForNothing(t *testing.T) {
	vague := []string{"util", "utils", "common", "types", "models", "helpers", "pkg", "misc"}
	for _, p := range packages(t) {
		for part := range strings.SplitSeq(strings.TrimPrefix(p.ImportPath, module+"/"), "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: %q says nothing about what is in it", p.ImportPath, part)
			}
		}
	}
}

func below(name, root string) bool { return name == root || strings.HasPrefix(name, root+"/") }

func ruleFor(name string) (home string, allowed []string, ok bool) {
	for root, a := range rules {
		if below(name, root) && len(root) > len(home) {
			home, allowed, ok = root, a, true
		}
	}
	return home, allowed, ok
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
