package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells systemd. Its methods may be called concurrently.
type Notifier struct {
	log  *slog.Logger
	send func(state string) (bool, error)
}

// New makes a Notifier of the socket in $NOTIFY_SOCKET, if there is one.
func New(log *slog.Logger) *Notifier {
	return &Notifier{log: log, send: func(state string) (bool, error) { return daemon.SdNotify(false, state) }}
}

// tell logs what cannot be told: whoever waits for it will say so too.
func (n *Notifier) tell(states ...string) {
	if _, err := n.send(strings.Join(states, "\n")); err != nil {
		n.log.Warn("tell the supervisor", "state", states[0], "error", err)
	}
}

func statusLine(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

// Ready says that the process does its work, after its start or a reload.
func (n *Notifier) Ready(status string) { n.tell(daemon.SdNotifyReady, statusLine(status)) }

// Status says what the process is doing.
func (n *Notifier) Status(status string) { n.tell(statusLine(status)) }

// Stopping says that the process ends in good order.
func (n *Notifier) Stopping(status string) { n.tell(daemon.SdNotifyStopping, statusLine(status)) }

// Reloading says that the configuration is being read again; Ready ends it.
func (n *Notifier) Reloading() {
	states := []string{daemon.SdNotifyReloading}
	if now := daemon.SdNotifyMonotonicUsec(); now != "" { // Type=notify-reload wants it
		states = append(states, now)
	}
	n.tell(states...)
}

// Watch feeds the watchdog until ctx ends, if systemd wants that ($WATCHDOG_USEC):
// three times in its interval it asks alive, and tells systemd only if the answer
// is nil and comes in time. alive is called one at a time.
func (n *Notifier) Watch(ctx context.Context, alive func(context.Context) error) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("watchdog of the supervisor: %w", err)
	}
	if limit <= 0 {
		return nil
	}
	every := limit / 3
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, every)
		err := alive(bounded)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			n.log.Error("no sign of life: the supervisor will end this process", "within", limit, "error", err)
			n.Status("no sign of life: " + err.Error())
		default:
			n.tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Progress is whether a loop goes on. Its zero value is idle.
type Progress struct {
	mu   sync.Mutex
	at   time.Time
	busy bool
}

// Step says that the loop has come round.
func (p *Progress) Step() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.busy = time.Now(), true
}

// Idle says that the loop waits for something that may never come.
func (p *Progress) Idle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
}

// Check is nil while the loop is idle, or has come round within limit.
func (p *Progress) Check(limit time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if since := time.Since(p.at); p.busy && since > limit {
		return fmt.Errorf("stands still for %s", since.Round(time.Second))
	}
	return nil
}

// Answers runs f and returns its error, or that it has not answered by the end of
// ctx. f goes on by itself then; until it has returned nothing else is asked.
type Answers struct {
	pending chan error
}

// Ask is not for concurrent use.
func (a *Answers) Ask(ctx context.Context, f func() error) error {
	if a.pending == nil {
		a.pending = make(chan error, 1)
		pending := a.pending
		go func() { pending <- f() }() // a raft loop that hangs cannot be interrupted
	}
	select {
	case err := <-a.pending:
		a.pending = nil
		return err
	case <-ctx.Done():
		return errors.New("does not answer")
	}
}
