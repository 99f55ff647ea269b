package mirror

import "github.com/waybillhq/waybill/internal/record"

// outgoing are the attributes under which a batch leaves: part of the lane's
// transaction, if it has one, and without the flags that only a broker may set.
func outgoing(a record.Attributes, transactional bool) record.Attributes {
	return a.WithoutBrokerFlags().WithTransactional(transactional)
}
