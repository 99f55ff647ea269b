package flow_test

import (
	"testing"

	"github.com/waybillhq/waybill/flow"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]flow.Size{
		"0B": 0, "1B": 1, "1000B": 1000, "1KB": 1000, "1KiB": 1024, "50MiB": 50 << 20, "20MB": 20e6, "3GiB": 3 << 30, "7GB": 7e9,
	} {
		got, err := flow.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
		again, err := flow.ParseSize(got.String())
		if err != nil || again != want {
			t.Errorf("%s prints as %s, which reads as %d (%v)", text, got, again, err)
		}
	}
	for _, text := range []string{"", "1", "50", "MiB", "-1MB", "+1MB", "1.5MB", "01MB", "1 MB", "1mb", "1TiB", "1MBB", "1iB", "9999999999GiB", "1_000B"} {
		if got, err := flow.ParseSize(text); err == nil {
			t.Errorf("%q reads as %d", text, got)
		}
	}
}
