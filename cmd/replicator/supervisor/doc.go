// Package supervisor tells systemd how this process is (sd_notify): ready, reloading
// its configuration, stopping, and alive.
//
// A [Notifier] does nothing where no NOTIFY_SOCKET is set. Its watchdog is not a
// timer: [Notifier.Watch] asks the process for a sign of life first, and is silent
// if there is none, so that systemd ends and restarts a process that only seems to
// run. [Progress] is such a sign for a loop: something that has to move.
//
// The package starts no goroutine.
package supervisor
