package broker

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/waybillhq/waybill/broker/commitlog"
)

// errCannotSend says that the system cannot send this file to this connection
// (TLS, a file in memory, some file systems).
var errCannotSend = errors.New("no way from this file to this connection")

// sendRange sends n bytes of a range, from off on, without copying them through
// this process (sendfile). It waits for the connection until its write deadline,
// and returns how many bytes it has sent.
func sendRange(nc net.Conn, r commitlog.Range, off, n int64) (sent int64, err error) {
	file, pos, err := r.File()
	if err != nil {
		return 0, err
	}
	tcp, isTCP := nc.(*net.TCPConn)
	disk, isDisk := file.(syscall.Conn)
	if !isTCP || !isDisk {
		return 0, errCannotSend
	}
	socket, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	source, err := disk.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	// Its error would be the deadline's, or that either was closed.
	err = socket.Write(func(sock uintptr) (done bool) {
		done = true
		closed := source.Control(func(fd uintptr) {
			at := pos + off + sent
			for sent < n {
				m, err := unix.Sendfile(int(sock), int(fd), &at, int(n-sent))
				switch {
				case m > 0:
					sent += int64(m)
				case errors.Is(err, unix.EINTR):
				case errors.Is(err, unix.EAGAIN):
					done = false
					return
				case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
					failed = errCannotSend
					return
				case err != nil:
					failed = os.NewSyscallError("sendfile", err)
					return
				default:
					failed = io.ErrUnexpectedEOF
					return
				}
			}
		})
		if closed != nil {
			failed = closed
		}
		return done || failed != nil
	})
	return sent, errors.Join(failed, err)
}

// writeMore writes all of p, and tells the system that something follows at once,
// so that a header does not travel in a packet of its own.
func writeMore(nc net.Conn, p []byte) (int, error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc.Write(p)
	}
	socket, err := tcp.SyscallConn()
	if err != nil {
		return 0, err
	}
	written := 0
	var failed error
	err = socket.Write(func(sock uintptr) bool {
		for written < len(p) {
			n, err := unix.SendmsgN(int(sock), p[written:], nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil:
				failed = os.NewSyscallError("sendmsg", err)
				return true
			default:
				written += n
			}
		}
		return true
	})
	return written, errors.Join(failed, err)
}
