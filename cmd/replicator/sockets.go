package main

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/waybillhq/waybill/broker"
)

// firstPassed is the descriptor of the first socket that a supervisor passes.
const firstPassed = 3

// takeSockets gives listeners the sockets that a supervisor has bound for this
// process (LISTEN_PID and LISTEN_FDS, as systemd's socket units set them), by
// address. The supervisor keeps them too: while no broker is there, clients wait
// in them instead of being refused. What has no listener is a mistake of whoever
// wrote the unit, and would swallow clients.
func takeSockets(listeners []broker.Listener, getenv func(string) string) error {
	if getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil // none, or meant for the process that started this one
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil {
		return fmt.Errorf("sockets of the supervisor: LISTEN_FDS: %w", err)
	}
	for fd := firstPassed; fd < firstPassed+n; fd++ {
		f := os.NewFile(uintptr(fd), "socket of the supervisor")
		socket, err := net.FileListener(f) // a copy, which programs started from here do not inherit
		f.Close()
		if err != nil {
			return fmt.Errorf("sockets of the supervisor: descriptor %d: %w", fd, err)
		}
		if !giveSocket(listeners, socket) {
			socket.Close()
			return fmt.Errorf("sockets of the supervisor: no listener has the address %s", socket.Addr())
		}
	}
	return nil
}

func giveSocket(listeners []broker.Listener, socket net.Listener) bool {
	bound, ok := socket.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	for i := range listeners {
		want, err := net.ResolveTCPAddr("tcp", listeners[i].Addr)
		if err != nil || want.Port != bound.Port || listeners[i].Socket != nil {
			continue
		}
		everywhere := (want.IP == nil || want.IP.IsUnspecified()) && bound.IP.IsUnspecified()
		if everywhere || want.IP.Equal(bound.IP) {
			listeners[i].Socket = socket
			return true
		}
	}
	return false
}
