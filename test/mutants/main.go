// Mutants takes fixes of the product out, one at a time, and sees whether the
// tests that hold them turn red.
//
// Each file with the suffix .patch is a mutant: a unified diff against the
// repository under two lines that say which fault it brings back and which test
// must not like it:
//
//	Fault: what goes wrong then, and who had it
//	Test: ./package TestName
//
//	--- a/package/file.go
//	...
//
// All of them must apply, also those that are not drawn: one that no longer does is
// an error, and is to be made
// anew or removed with what it was about. Then -n of them are drawn at random. For
// each the test must be green, the patch must build, and the test must be red with
// it. It all happens in a temporary copy of the files that git knows; the
// repository is not touched.
//
//	go run ./test/mutants -n 5 -seed 1
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// limit is for one run of one test, without building it. A test that a mutant
// hangs is red.
const limit = "1m"

func main() {
	n := flag.Int("n", 5, "how many mutants are drawn; 0 is all")
	seed := flag.Uint64("seed", 0, "chooses them; 0 takes one from the clock")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *n, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// mutant is one patch.
type mutant struct {
	name, path     string
	fault          string
	pkg, test      string
	killed         bool
	seconds        float64
	withoutSeconds float64
}

func run(ctx context.Context, n int, seed uint64) error {
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
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if n > 0 {
		all = all[:min(n, len(all))]
	}
	fmt.Printf("seed %d\n", seed)
	killed := 0
	for _, m := range all {
		if err := m.try(ctx, dir); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		verdict := "SURVIVES"
		if m.killed {
			killed++
			verdict = "killed"
		}
		fmt.Printf("%-9s %s %s, green without in %.0f s, %.0f s with: %s\n", verdict, m.pkg, m.test, m.withoutSeconds, m.seconds, m.fault)
	}
	fmt.Printf("%d of %d mutants killed\n", killed, len(all))
	if killed < len(all) {
		return errors.New("a fix can be taken out and no test notices")
	}
	return nil
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
			if fault, ok := strings.CutPrefix(line, "Fault: "); ok {
				m.fault = strings.TrimSpace(fault)
			}
			if test, ok := strings.CutPrefix(line, "Test: "); ok {
				m.pkg, m.test, _ = strings.Cut(strings.TrimSpace(test), " ")
			}
		}
		if m.fault == "" || m.pkg == "" || m.test == "" {
			return nil, fmt.Errorf("%s: begin it with a line \"Fault: ...\" and a line \"Test: ./package TestName\"", m.name)
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
// test, which show nothing then.
func (m *mutant) try(ctx context.Context, dir string) error {
	began := time.Now()
	if green, out := m.passes(ctx, dir); !green {
		return fmt.Errorf("%s of %s is red without it:\n%s", m.test, m.pkg, out)
	}
	m.withoutSeconds = time.Since(began).Seconds()
	if _, err := output(ctx, dir, "git", "apply", m.path); err != nil {
		return err
	}
	if _, err := output(ctx, dir, "go", "test", "-count=1", "-run", "^$", m.pkg); err != nil {
		return fmt.Errorf("it does not build: %w", err)
	}
	began = time.Now()
	green, out := m.passes(ctx, dir)
	m.seconds = time.Since(began).Seconds()
	if m.killed = !green; m.killed && !strings.Contains(out, "--- FAIL: "+m.test) && !strings.Contains(out, "test timed out") {
		return fmt.Errorf("its test has not failed, something else has:\n%s", out)
	}
	if _, err := output(ctx, dir, "git", "apply", "--reverse", m.path); err != nil {
		return err
	}
	return ctx.Err()
}

func (m *mutant) passes(ctx context.Context, dir string) (bool, string) {
	out, err := output(ctx, dir, "go", "test", "-count=1", "-timeout", limit, "-v", "-run", "^"+m.test+"$", m.pkg)
	if err != nil {
		return false, err.Error()
	}
	return strings.Contains(out, "--- PASS: "+m.test), out // a name of no test passes, too
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
