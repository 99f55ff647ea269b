package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// closings logs why connections were closed: for each host the first at once, and
// in each closingInterval after it one line about all others, so that nobody fills
// the log who need not even authenticate. It is safe for concurrent use.
type closings struct {
	log *slog.Logger

	mu    sync.Mutex
	hosts map[string]*closing
}

const (
	closingInterval = 10 * time.Second
	// closingHosts is how many hosts have lines of their own at a time.
	closingHosts = 1024
	otherHosts   = "others"
)

// closing is what is not logged yet of a host.
type closing struct {
	kept  int
	level slog.Level
	args  []any // of the last
	timer *time.Timer
}

func newClosings(log *slog.Logger) *closings {
	return &closings{log: log, hosts: map[string]*closing{}}
}

// closed logs the end of a connection from a host, now or later.
func (c *closings) closed(host string, level slog.Level, args ...any) {
	if !c.log.Enabled(context.Background(), level) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.hosts[host]
	if have == nil && len(c.hosts) >= closingHosts {
		host = otherHosts
		have = c.hosts[host]
	}
	if have == nil {
		c.hosts[host] = &closing{timer: time.AfterFunc(closingInterval, func() { c.tell(host) })}
		c.log.Log(context.Background(), level, "connection closed", args...)
		return
	}
	if have.kept++; have.kept == 1 || level > have.level {
		have.level = level
	}
	have.args = args
}

// tell logs what was kept back of a host, and forgets the host if nothing was.
func (c *closings) tell(host string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.hosts[host]
	if have == nil {
		return
	}
	if have.kept == 0 {
		delete(c.hosts, host)
		return
	}
	c.log.Log(context.Background(), have.level, "connections closed", append([]any{"host", host, "count", have.kept, "since", closingInterval}, have.args...)...)
	have.kept, have.args = 0, nil
	have.timer.Reset(closingInterval)
}

// flush logs what was kept back of all hosts. Nothing is closed any more.
func (c *closings) flush() {
	c.mu.Lock()
	var hosts []string
	for host, have := range c.hosts {
		have.timer.Stop()
		hosts = append(hosts, host)
	}
	c.mu.Unlock()
	for _, host := range hosts {
		c.tell(host)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, have := range c.hosts {
		have.timer.Stop()
	}
}
