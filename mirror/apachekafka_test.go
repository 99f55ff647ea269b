//go:build interop

package mirror

import (
	"os"

	"github.com/waybillhq/waybill/flow"
	"github.com/waybillhq/waybill/test/interop/apachekafka"
)

// With WAYBILL_WEST or WAYBILL_EAST set to a version of Apache Kafka, that side
// of every test of this package is one, instead of a bundled broker. Each test
// starts its own, so run them one at a time (-parallel 1).
func init() {
	startCluster = func(w *world, name string) *flow.Cluster {
		version := map[string]string{"west": os.Getenv("WAYBILL_WEST"), "east": os.Getenv("WAYBILL_EAST")}[name]
		if version == "" {
			return w.bundled(name)
		}
		return apachekafka.Start(w.t, apachekafka.Config{Version: version}).Cluster(apachekafka.Admin)
	}
}
