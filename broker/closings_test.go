package broker

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAFloodOfClosingsIsAFewLines that count them.
func TestAFloodOfClosingsIsAFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := &logLines{}
		c := newClosings(slog.New(slog.NewTextHandler(lines, nil)))
		for range 1000 { // 25 seconds
			c.closed("10.0.0.1", slog.LevelWarn, "err", "malformed")
			time.Sleep(25 * time.Millisecond)
		}
		c.closed("10.0.0.2", slog.LevelInfo, "err", "gone")
		c.closed("10.0.0.2", slog.LevelDebug, "err", "reset")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := lines.count("connection closed"); n != 2 {
			t.Errorf("%d lines of their own, want one for each host", n)
		}
		told := 0
		for line := range strings.Lines(lines.buf.String()) {
			var n int
			if _, count, found := strings.Cut(line, "count="); found {
				fmt.Sscan(count, &n)
				told += n
			}
		}
		if n := lines.count("connections closed"); told != 999 || n != 3 {
			t.Errorf("%d lines tell of %d, want 3 that tell of 999", n, told)
		}
		if len(c.hosts) != 0 {
			t.Errorf("%d hosts are remembered", len(c.hosts))
		}
	})
}

// TestClosingsOfManyHosts are counted together beyond a number of them, and told of
// when the broker stops.
func TestClosingsOfManyHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := &logLines{}
		c := newClosings(slog.New(slog.NewTextHandler(lines, nil)))
		for i := range 10 * closingHosts {
			c.closed(fmt.Sprint(i), slog.LevelWarn)
		}
		if n := lines.count("connection closed"); n != closingHosts+1 || len(c.hosts) != n {
			t.Errorf("%d lines, %d hosts", n, len(c.hosts))
		}
		c.flush()
		if want := fmt.Sprintf("host=others count=%d", 9*closingHosts-1); lines.count(want) != 1 {
			t.Errorf("no line says %q", want)
		}
	})
}

// TestFailedAuthenticationsAreALineOfTheirOwn: many of one address are one line at
// once and one that counts the rest, and what else is closed does not hide them.
func TestFailedAuthenticationsAreALineOfTheirOwn(t *testing.T) {
	lines := &logLines{}
	b := startBroker(t, saslConfig(lines))
	if _, err := exchange(t, dial(t, b.Addr("sasl")), []byte{0, 0, 0, 12, 0x7f, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}); err == nil {
		t.Fatal("a malformed request was answered")
	}
	const guesses = 5
	for range guesses {
		nc := dial(t, b.Addr("sasl"))
		hello := kmsg.NewPtrSASLHandshakeRequest()
		hello.Mechanism = "SCRAM-SHA-256"
		if _, err := exchange(t, nc, frameOf(hello, 1)); err != nil {
			t.Fatal(err)
		}
		token := kmsg.NewPtrSASLAuthenticateRequest()
		token.SASLAuthBytes = []byte("nonsense")
		if _, err := exchange(t, nc, frameOf(token, 1)); err != nil {
			t.Fatal(err)
		}
	}
	b.stop()
	if n := b.metrics.AuthenticationsFailed.Load(); n != guesses {
		t.Errorf("%d failures counted, want %d", n, guesses)
	}
	if first, rest, n := lines.count("msg=\"connection closed\""), lines.count(fmt.Sprintf("count=%d", guesses-1)), lines.count("authentication failed"); first != 2 || rest != 1 || n != 2 {
		t.Errorf("%d lines of their own, %d that count the rest, %d of failures, want 2, 1 and 2:\n%s", first, rest, n, lines.text())
	}
}
