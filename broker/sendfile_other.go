//go:build !linux

package broker

import (
	"errors"
	"net"

	"github.com/waybillhq/waybill/broker/commitlog"
)

// errCannotSend says that the system cannot send this file to this connection.
var errCannotSend = errors.New("no way from this file to this connection")

// sendRange is for Linux: elsewhere records go through a buffer.
func sendRange(net.Conn, commitlog.Range, int64, int64) (int64, error) { return 0, errCannotSend }

func writeMore(nc net.Conn, p []byte) (int, error) { return nc.Write(p) }
