package kafka

import (
	"cmp"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// nameOf names Kafka's requests and those on mirror topics.
func nameOf(key int16) string { return cmp.Or(mirrorwire.Name(key), kmsg.NameForKey(key)) }
