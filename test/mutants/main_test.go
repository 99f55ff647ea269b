package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// classesOf reads what docs/invariants.md says of each class of faults that others had.
func classesOf(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "invariants.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	_, table, ok := strings.Cut(string(page), "\n## Faults that others had\n")
	for line := range strings.Lines(table) {
		if row, is := strings.CutPrefix(line, "| **"); is {
			name, rest, _ := strings.Cut(row, "**")
			rows[name] = rest
		}
	}
	if !ok || len(rows) != 20 {
		t.Fatalf("docs/invariants.md has %d classes of faults that others had, want 20", len(rows))
	}
	return rows
}

// Each class has a mutant, which one of the tests that the class names kills.
func TestEachClassHasMutants(t *testing.T) {
	all, err := load(".")
	if err != nil {
		t.Fatal(err)
	}
	rows := classesOf(t)
	have := map[string]int{}
	for _, m := range all {
		if have[m.class]++; m.class == "" {
			continue
		}
		row, ok := rows[m.class]
		if !ok {
			t.Errorf("%s: docs/invariants.md has no class %q", m.name, m.class)
			continue
		}
		test, _, _ := strings.Cut(m.test, "/")
		where := regexp.MustCompile("`" + regexp.QuoteMeta(strings.TrimPrefix(m.pkg, "./")) + "` [^`;]*\\b" + test + `\b`)
		if !where.MatchString(row) {
			t.Errorf("%s: docs/invariants.md does not name %s of %s for %q", m.name, test, m.pkg, m.class)
		}
	}
	for class := range rows {
		if have[class] == 0 {
			t.Errorf("no mutant takes out a fix of %q", class)
		}
	}
}

// A patch that follows the code no more is found without running its test.
func TestAllPatchesApply(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); err != nil {
		t.Skip("not in a repository of git")
	}
	all, err := load(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.path, err = filepath.Abs(m.path); err != nil {
			t.Fatal(err)
		}
	}
	if err := allApply(t.Context(), root, all); err != nil {
		t.Error(err)
	}
}

func TestDrawing(t *testing.T) {
	all, err := load(".")
	if err != nil {
		t.Fatal(err)
	}
	drawn := map[string]bool{}
	for seed := range uint64(200) {
		got := draw(all, 5, seed+1)
		if !slices.Equal(got, draw(all, 5, seed+1)) {
			t.Fatalf("seed %d draws one thing and another", seed+1)
		}
		classes := map[string]int{}
		for _, m := range got {
			classes[m.class]++
		}
		for class, n := range classes {
			drawn[class] = true
			of := slices.Collect(func(yield func(*mutant) bool) {
				for _, m := range all {
					if m.class == class && !yield(m) {
						return
					}
				}
			})
			if class == "" || n != len(of) {
				t.Fatalf("seed %d draws %d of %d mutants of %q", seed+1, n, len(of), class)
			}
		}
		if len(classes) != 5 {
			t.Fatalf("seed %d draws %d classes", seed+1, len(classes))
		}
	}
	for class := range classesOf(t) {
		if !drawn[class] {
			t.Errorf("%q is never drawn", class)
		}
	}
	if got := draw(all, 1000, 1); len(got) < 20 {
		t.Errorf("more classes than there are: %d mutants", len(got))
	}
}
