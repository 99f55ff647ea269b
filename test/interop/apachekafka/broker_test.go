//go:build interop

package apachekafka

import "testing"

func TestStart(t *testing.T) {
	for _, cfg := range []Config{{Version: "3.9.1"}, {Version: "4.1.0", Secure: true}} {
		t.Run(cfg.Version, func(t *testing.T) {
			b := Start(t, cfg)
			b.Kill()
			if err := b.Run(t.Context()); err != nil {
				t.Fatalf("run again after a kill: %v", err)
			}
		})
	}
}
