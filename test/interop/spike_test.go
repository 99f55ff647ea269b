//go:build interop

package interop

import (
	"os"
	"strings"
	"testing"

	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// versions are the brokers that the spike asks.
func versions() []string {
	if v := os.Getenv("WAYBILL_KAFKA_VERSIONS"); v != "" {
		return strings.Split(v, ",")
	}
	return []string{"3.9.1", "4.1.0"}
}

// onEach runs f against a broker of each version, one at a time.
func onEach(t *testing.T, properties map[string]string, f func(t *testing.T, b *apachekafka.Broker)) {
	for _, v := range versions() {
		t.Run(v, func(t *testing.T) {
			f(t, apachekafka.Start(t, apachekafka.Config{Version: v, Properties: properties}))
		})
	}
}

// expect fails the test unless the broker answered as FINDINGS.md says.
func expect(t testing.TB, what string, err error, want ...string) {
	t.Helper()
	got := code(err)
	t.Logf("%s: %s", what, got)
	for _, w := range want {
		if got == w {
			return
		}
	}
	if len(want) > 0 {
		t.Errorf("%s: got %s, want %s", what, got, strings.Join(want, " or "))
	}
}
