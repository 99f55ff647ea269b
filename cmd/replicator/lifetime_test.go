package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asProgram in its environment makes the test binary the program itself, so that
// a demonstration that a test starts finds its children's binary as it always does.
const asProgram = "WAYBILL_TEST_AS_PROGRAM"

func init() {
	switch os.Getenv(asProgram) {
	case "":
	case "stubborn":
		ctx := untilSignal()
		fmt.Println("ready")
		<-ctx.Done()
		select {}
	default:
		main() // does not return
	}
}

// TestTheSecondSignalEndsTheProcess although it is waiting for something.
func TestTheSecondSignalEndsTheProcess(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), asProgram+"=stubborn")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case err := <-ended:
			if ctx.Err() != nil || cmd.ProcessState.Success() {
				t.Errorf("ended with %v", err)
			}
			return
		case <-tick.C:
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended meanwhile
		}
	}
}

// TestChildrenEndWithTheDemonstration kills a demonstration with SIGKILL, which it
// cannot notice, when its brokers and nodes run: they must end by themselves.
func TestChildrenEndWithTheDemonstration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "demo", "--stay", "--dir", dir)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "three nodes") {
	}
	addresses := boundAddresses(t, dir)
	if len(addresses) != 8 { // a listener of each of two brokers, peer and API of each of three nodes
		t.Fatalf("the demonstration listens on %q", addresses)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), stdinGrace+30*time.Second)
	defer cancel()
	for _, a := range addresses {
		awaitRefusal(ctx, t, a)
	}
}

// boundAddresses are those that the children have written down.
func boundAddresses(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, pattern := range []string{"*/address", "fleet/*/address"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				_, address, _ := strings.Cut(strings.TrimSpace(line), " ")
				all = append(all, address)
			}
		}
	}
	return all
}

func awaitRefusal(ctx context.Context, t *testing.T, address string) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if ctx.Err() != nil {
			t.Fatalf("%s is still listened on", address)
		}
		if err != nil {
			return
		}
		conn.Close()
		<-tick.C
	}
}
