package coordinator

import "testing"

func TestPartitionFor(t *testing.T) {
	// Utils.abs(String.hashCode) % n, as computed by Java.
	for _, c := range []struct {
		name string
		n    int32
		want int32
	}{
		{"", 50, 0},
		{"hello", 50, 99162322 % 50},
		{"my-group", 50, 36},
		{"é€😀", 1 << 30, (((233*31+8364)*31+0xd83d)*31 + 0xde00) % (1 << 30)},
	} {
		if got := PartitionFor(c.name, c.n); got != c.want {
			t.Errorf("PartitionFor(%q, %d): got %d, want %d", c.name, c.n, got, c.want)
		}
	}
}
