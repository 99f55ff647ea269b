package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestTableIsConsistent(t *testing.T) {
	seen := map[kmsg.Key]bool{}
	for _, row := range apis() {
		switch req := newRequest(row.key); {
		case seen[row.key]:
			t.Errorf("%s is there twice", apiName(row.key))
		case req == nil:
			t.Errorf("key %d is unknown to the codec", row.key)
		case row.min < 0 || row.min > row.max || row.max > req.MaxVersion():
			t.Errorf("%s: versions %d to %d, the codec has up to %d", apiName(row.key), row.min, row.max, req.MaxVersion())
		case row.handle == nil:
			t.Errorf("%s has no handler", apiName(row.key))
		case (row.resource == 0) != (row.op == 0):
			t.Errorf("%s: resource %v without operation %v", apiName(row.key), row.resource, row.op)
		case row.resource != 0 && !row.resource.Supports(row.op):
			t.Errorf("%s: %v has no operation %v", apiName(row.key), row.resource, row.op)
		}
		seen[row.key] = true
	}
	// What librdkafka and old clients look for.
	table, err := wholeTable()
	if err != nil {
		t.Fatal(err)
	}
	for key, most := range map[kmsg.Key]int16{kmsg.Produce: 0, kmsg.Fetch: 4, kmsg.ListOffsets: 1, kmsg.Metadata: 0, kmsg.ApiVersions: 0} {
		if row := table[int16(key)]; row == nil || row.min > most {
			t.Errorf("%s must be offered from version %d on", key.Name(), most)
		}
	}
}
