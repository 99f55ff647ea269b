package filter

import (
	"strings"
	"testing"

	"github.com/waybillhq/waybill/internal/record"
)

// TestTrimHasABound: two long texts of one record would cost the product of their lengths.
func TestTrimHasABound(t *testing.T) {
	f, err := Compile(`trim(json.a, json.b) == ""`)
	if err != nil {
		t.Fatal(err)
	}
	value := `{"a":"` + strings.Repeat("é", 50_000) + `","b":"` + strings.Repeat("è", 50_000) + `é"}`
	if _, err := f.Match("orders", 0, &record.Record{Value: []byte(value)}); err == nil || !strings.Contains(err.Error(), "trim") {
		t.Errorf("got %v", err)
	}
}
