// Mutants takes fixes of the product out, one at a time, and sees whether the
// tests that hold them turn red.
//
// Each file with the suffix .patch is a mutant: a unified diff against the
// repository under lines that say which fault it brings back, which test must not
// like it, and what that test says then:
//
//	Class: the name that docs/invariants.md gives to faults of this kind
//	Fault: what goes wrong then, and who had it
//	Test: ./package TestName
//	Says: part of what the test prints when it fails
//
//	--- a/package/file.go
//	...
//
// Class is left out where the fault is nobody else's; the test may be one with a
// part, as in TestName/a_part.
//
// All of them must apply, also those that are not drawn: one that no longer does is
// an error, and is to be made anew or removed with what it was about. Then -n
// classes are drawn at random, and every mutant of theirs is tried. For each the
// test must be green, the patch must build, and the test must be red with it, and say
// why. It all happens in a temporary copy of the files that git knows; the repository
// is not touched.
//
//	go run ./test/mutants -n 5 -seed 1
//	go run ./test/mutants -only restart
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// limit is for one run of one test. A test that a mutant hangs is red.
const limit = "2m"

func main() {
	n := flag.Int("n", 5, "how many `classes` are drawn, whose mutants are tried; 0 is all mutants, also those of no class")
	seed := flag.Uint64("seed", 0, "chooses the classes; 0 takes one from the clock")
	only := flag.String("only", "", "try the mutants instead that have one of these `texts` in their names, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *n, *seed, *only); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// mutant is one patch.
type mutant struct {
	name, path     string
	class          string // "" for none
	fault          string
	pkg, test      string
	says           string
	killed         bool
	seconds        float64
	withoutSeconds float64
}

func run(ctx context.Context, n int, seed uint64, only string) error {
	root, err := output(ctx, ".", "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	all, err := load(filepath.Join(root, "test", "mutants"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "waybill-mutants-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a leftover in a temporary folder harms nobody
	if err := copyTree(ctx, root, dir); err != nil {
		return fmt.Errorf("copy the repository: %w", err)
	}
	if err := allApply(ctx, dir, all); err != nil {
		return err
	}
	drawn := drawnFrom(all, n, seed, only)
	if len(drawn) == 0 {
		return fmt.Errorf("no mutant has %q in its name", only)
	}
	killed := 0
	var errs []error
	green := map[string]float64{} // seconds of tests that are, without a mutant
	for _, m := range drawn {
		if err := m.try(ctx, dir, green); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Printf("BROKEN    %s\n", m.name)
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
			continue
		}
		verdict := "SURVIVES"
		if m.killed {
			killed++
			verdict = "killed"
		}
		fmt.Printf("%-9s %s, by %s %s, green without in %.1f s, %.1f s with: %s\n",
			verdict, cmp.Or(m.class, "(no class)"), m.pkg, m.test, m.withoutSeconds, m.seconds, m.fault)
	}
	fmt.Printf("%d of %d mutants killed\n", killed, len(drawn))
	if killed+len(errs) < len(drawn) {
		errs = append(errs, errors.New("a fix can be taken out and no test notices"))
	}
	return errors.Join(errs...)
}

// drawnFrom draws n classes and says which.
func drawnFrom(all []*mutant, n int, seed uint64, only string) []*mutant {
	if only != "" {
		texts := strings.Split(only, ",")
		return slices.DeleteFunc(slices.Clone(all), func(m *mutant) bool {
			return !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(m.name, text) })
		})
	}
	if n == 0 {
		fmt.Printf("all %d mutants\n", len(all))
		return all
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	drawn := draw(all, n, seed)
	fmt.Printf("seed %d draws:\n", seed)
	for i, m := range drawn {
		if i == 0 || drawn[i-1].class != m.class {
			fmt.Printf("  %s\n", m.class)
		}
	}
	return drawn
}

// draw returns the mutants of n classes, class by class.
func draw(all []*mutant, n int, seed uint64) []*mutant {
	of := map[string][]*mutant{}
	for _, m := range all {
		if m.class != "" {
			of[m.class] = append(of[m.class], m)
		}
	}
	classes := slices.Sorted(maps.Keys(of))
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(classes), func(i, j int) { classes[i], classes[j] = classes[j], classes[i] })
	var drawn []*mutant
	for _, class := range classes[:min(n, len(classes))] {
		drawn = append(drawn, of[class]...)
	}
	return drawn
}

// load reads the patches.
func load(dir string) ([]*mutant, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no patches in %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	var all []*mutant
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m := &mutant{name: filepath.Base(path), path: path}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "--- ") {
				break
			}
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key {
			case "Class":
				m.class = value
			case "Fault":
				m.fault = value
			case "Test":
				m.pkg, m.test, _ = strings.Cut(value, " ")
			case "Says":
				m.says = value
			}
		}
		if m.fault == "" || m.pkg == "" || m.test == "" || m.says == "" {
			return nil, fmt.Errorf("%s: begin it with lines \"Fault: ...\", \"Test: ./package TestName\" and \"Says: ...\"", m.name)
		}
		all = append(all, m)
	}
	return all, nil
}

// copyTree copies the files that git knows, as they are now.
func copyTree(ctx context.Context, from, to string) error {
	names, err := output(ctx, from, "git", "ls-files", "-z")
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(names, "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted and not committed yet
		}
		if err != nil {
			return err
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func allApply(ctx context.Context, dir string, all []*mutant) error {
	var errs []error
	for _, m := range all {
		if _, err := output(ctx, dir, "git", "apply", "--check", m.path); err != nil {
			errs = append(errs, fmt.Errorf("%s does not apply any more: make it anew for the code as it is: %w", m.name, err))
		}
	}
	return errors.Join(errs...)
}

// try tells whether a mutant is killed. An error is one of the mutant or its
// test, which show nothing then. green holds which tests are known to be green.
func (m *mutant) try(ctx context.Context, dir string, green map[string]float64) (err error) {
	seconds, known := green[m.pkg+" "+m.test]
	if !known {
		original := m.binary(dir, "original")
		if _, err := os.Stat(original); err != nil {
			if err := m.build(ctx, dir, original); err != nil {
				return err
			}
		}
		began := time.Now()
		if ok, out := m.passes(ctx, dir, original); !ok {
			return fmt.Errorf("%s of %s is red without it:\n%s", m.test, m.pkg, out)
		}
		seconds = time.Since(began).Seconds()
		green[m.pkg+" "+m.test] = seconds
	}
	m.withoutSeconds = seconds
	if _, err := output(ctx, dir, "git", "apply", m.path); err != nil {
		return err
	}
	defer func() {
		_, undone := output(context.WithoutCancel(ctx), dir, "git", "apply", "--reverse", m.path)
		err = errors.Join(err, undone)
	}()
	mutated := m.binary(dir, "mutated")
	if err := m.build(ctx, dir, mutated); err != nil {
		return fmt.Errorf("it does not build: %w", err)
	}
	began := time.Now()
	ok, out := m.passes(ctx, dir, mutated)
	m.seconds = time.Since(began).Seconds()
	if m.killed = !ok; m.killed {
		failed := strings.Contains(out, "--- FAIL: "+m.test) || strings.Contains(out, "test timed out")
		if !failed || !strings.Contains(out, m.says) {
			return fmt.Errorf("its test has not failed for want of the fix, it does not say %q:\n%s", m.says, out)
		}
	}
	return ctx.Err()
}

// binary is where the tests of the mutant's package are built.
func (m *mutant) binary(dir, which string) string {
	return filepath.Join(dir, strings.NewReplacer("./", "", "/", "_").Replace(m.pkg)+"."+which)
}

// build builds the tests of the mutant's package as the copy of the tree is now,
// without what only a debugger needs.
func (m *mutant) build(ctx context.Context, dir, binary string) error {
	_, err := output(ctx, dir, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", binary, m.pkg)
	return err
}

func (m *mutant) passes(ctx context.Context, dir, binary string) (bool, string) {
	out, err := output(ctx, filepath.Join(dir, m.pkg), binary, "-test.count=1", "-test.timeout="+limit, "-test.v", "-test.run="+m.pattern())
	if err != nil {
		return false, err.Error()
	}
	return strings.Contains(out, "--- PASS: "+m.test), out // a name of no test passes, too
}

// pattern is the test, and no other, for -run.
func (m *mutant) pattern() string {
	parts := strings.Split(m.test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// output runs a program in a folder. Its error holds what it wrote.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var out, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &all
	err := cmd.Run()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(slices.Concat([]string{name}, args[:min(2, len(args))]), " "), err, out.Bytes(), all.Bytes())
	}
	return strings.TrimRight(out.String(), "\n"), nil
}
