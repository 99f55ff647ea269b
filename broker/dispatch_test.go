package broker

import (
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// newRequest is an empty request of an API of the table.
func newRequest(key kmsg.Key) kmsg.Request {
	for _, row := range apis() {
		if row.key == key {
			return row.handle.empty()
		}
	}
	return nil
}

func TestTableIsConsistent(t *testing.T) {
	seen := map[kmsg.Key]bool{}
	for _, row := range apis() {
		switch req := newRequest(row.key); {
		case seen[row.key]:
			t.Errorf("%s is there twice", apiName(row.key))
		case kmsg.Key(req.Key()) != row.key:
			t.Errorf("%s: its handler takes %T", apiName(row.key), req)
		case mirrorwire.Name(int16(row.key)) == "" && !reflect.DeepEqual(req, row.key.Request()):
			t.Errorf("%s: %+v has not the defaults of the codec, %+v", apiName(row.key), req, row.key.Request())
		case row.min < 0 || row.min > row.max || row.max > req.MaxVersion():
			t.Errorf("%s: versions %d to %d, the codec has up to %d", apiName(row.key), row.min, row.max, req.MaxVersion())
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
