package main

import (
	"strings"
	"testing"
)

func TestASearchThatIsRefused(t *testing.T) {
	noEnvironment(t)
	for args, want := range map[string]string{
		"--since soon":      "--since soon: is neither a duration like 90m nor a time like 20",
		"--until -5m":       "--until -5m: is in the future",
		"--limit 0":         "--limit 0, --max-bytes ",
		"--key-base64 ?":    "--key-base64: illegal base64 data",
		"--since 2026-11-2": "--since 2026-11-2: is neither",
	} {
		got := replicator(t, "", append([]string{"lineage", "search", "us/orders", "--server", "http://127.0.0.1:1"}, strings.Fields(args)...)...)
		if got.code != exitInvalid || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: got %d %q, want %q", args, got.code, got.stderr, want)
		}
	}
}
