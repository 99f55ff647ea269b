package mirror

import (
	"slices"
	"testing"
)

func TestACopierIsInARoundOnce(t *testing.T) {
	a, b, c := new(copier), new(copier), new(copier)
	got := once([]*copier{a, b}, []*copier{b, c, c})
	if want := []*copier{a, b, c}; !slices.Equal(got, want) {
		t.Errorf("got %d copiers, want 3, each once", len(got))
	}
}
