// Keeper binds sockets, starts a command with them, and starts it again at once
// when it is killed: what systemd does with a socket unit and Restart=always, for
// the suites that kill the broker. It ends with the command when that ends by
// itself, and at SIGTERM.
//
//	keeper -pid FILE -listen 127.0.0.1:9092,127.0.0.1:9093 replicator broker --config broker.yaml
//
// FILE has the process id of the command that runs now.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	pid := flag.String("pid", "", "`file` for the process id of the command")
	listen := flag.String("listen", "", "`addresses` to bind, with commas between them")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *pid, strings.Split(*listen, ","), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "keeper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, pid string, addresses, command []string) error {
	var sockets []*os.File
	for _, address := range addresses {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		socket, err := l.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		sockets = append(sockets, socket)
	}
	for {
		err := keep(ctx, pid, sockets, command)
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
			continue
		case err == nil:
			return errors.New("the command ended by itself")
		}
		return err
	}
}

// keep runs the command once. The shell is there because LISTEN_PID is the id of
// the process that takes the sockets, which is known only in it.
func keep(ctx context.Context, pid string, sockets []*os.File, command []string) error {
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, command...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS="+strconv.Itoa(len(sockets)))
	cmd.ExtraFiles = sockets
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(pid+".new", []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := os.Rename(pid+".new", pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd.Wait()
}
