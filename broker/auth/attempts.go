package auth

import (
	"sync"
	"time"
)

// Failures that a client may make at once, and how fast they are forgotten. One
// application with a wrong password reconnects about once a second, which is
// below both; behind one address there may be many of them.
const (
	userFailures, userForgets = 20, 2.0 // per second
	hostFailures, hostForgets = 200, 20.0
	// trackedFailures bounds how many users and hosts are remembered.
	trackedFailures = 4096
)

// attempts counts failed authentications, so that guessing is slow from one
// address, with one name or with many. Whoever failed too often is refused before
// any work is done for him, and told what a wrong password is told. Nobody can
// lock out a user for other hosts than his own.
type attempts struct {
	mu    sync.Mutex
	users map[hostUser]failures
	hosts map[string]failures
}

type hostUser struct{ host, user string }

// failures leak away over time.
type failures struct {
	count float64
	at    time.Time
}

func (f failures) after(now time.Time, perSecond float64) float64 {
	return max(0, f.count-now.Sub(f.at).Seconds()*perSecond)
}

func newAttempts() *attempts {
	return &attempts{users: map[hostUser]failures{}, hosts: map[string]failures{}}
}

// allow says whether a host may try to be a user. An empty user is one that is
// not known before the proof is looked at.
func (a *attempts) allow(host, user string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	return a.hosts[host].after(now, hostForgets) < hostFailures &&
		(user == "" || a.users[hostUser{host, user}].after(now, userForgets) < userFailures)
}

func (a *attempts) failed(host, user string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	count(a.hosts, host, now, hostForgets)
	if user != "" {
		count(a.users, hostUser{host, user}, now, userForgets)
	}
}

func count[K comparable](m map[K]failures, key K, now time.Time, forgets float64) {
	if _, known := m[key]; !known && len(m) >= trackedFailures {
		makeRoom(m, now, forgets)
	}
	m[key] = failures{m[key].after(now, forgets) + 1, now}
}

// makeRoom drops what is forgotten, or else the one with the fewest failures.
func makeRoom[K comparable](m map[K]failures, now time.Time, forgets float64) {
	var least K
	fewest := -1.0
	for key, f := range m {
		n := f.after(now, forgets)
		if n == 0 {
			delete(m, key)
			continue
		}
		if fewest < 0 || n < fewest {
			least, fewest = key, n
		}
	}
	if len(m) >= trackedFailures {
		delete(m, least)
	}
}
