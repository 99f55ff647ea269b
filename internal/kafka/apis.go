package kafka

import (
	"cmp"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/internal/mirrorwire"
)

// A Conn speaks Kafka's requests and those on mirror topics. Both are nil for keys
// that are neither's.

func requestFor(key int16) kmsg.Request {
	if own := mirrorwire.NewRequest(key); own != nil {
		return own
	}
	return kmsg.RequestForKey(key)
}

func responseFor(key int16) kmsg.Response {
	if own := mirrorwire.NewRequest(key); own != nil {
		return own.ResponseKind()
	}
	return kmsg.ResponseForKey(key)
}

func nameOf(key int16) string { return cmp.Or(mirrorwire.Name(key), kmsg.NameForKey(key)) }
