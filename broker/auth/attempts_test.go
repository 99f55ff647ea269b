package auth

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestGuessingIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAttempts()
		guess := func(host string, user func(i int) string, n int) (tried int) {
			for i := range n {
				if a.allow(host, user(i)) {
					a.failed(host, user(i))
					tried++
				}
			}
			return tried
		}
		alice := func(int) string { return "alice" }
		everybody := func(i int) string { return fmt.Sprint("user", i) }
		if n := guess("10.0.0.1", alice, 10_000); n != userFailures {
			t.Errorf("%d guesses of one user's password, want %d", n, userFailures)
		}
		if n := guess("10.0.0.2", everybody, 10_000); n != hostFailures {
			t.Errorf("%d guesses from one host, want %d", n, hostFailures)
		}
		// Others are not concerned, nor is the user elsewhere.
		if !a.allow("10.0.0.1", "bob") || !a.allow("10.0.0.3", "alice") {
			t.Error("others are locked out")
		}
		time.Sleep(time.Second)
		if n := guess("10.0.0.1", alice, 100); n != userForgets {
			t.Errorf("%d guesses a second later, want %v", n, userForgets)
		}
		time.Sleep(time.Minute)
		if !a.allow("10.0.0.1", "alice") || !a.allow("10.0.0.2", "") {
			t.Error("failures are not forgotten")
		}
	})
}

func TestFailuresAreRememberedWithinBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAttempts()
		for range hostFailures {
			a.failed("attacker", "admin")
		}
		for i := range 3 * trackedFailures {
			a.failed(fmt.Sprint("host", i), fmt.Sprint("user", i))
		}
		if len(a.users) > trackedFailures || len(a.hosts) > trackedFailures {
			t.Errorf("%d users and %d hosts are remembered", len(a.users), len(a.hosts))
		}
		if a.allow("attacker", "other") || a.allow("attacker", "admin") {
			t.Error("an attacker was forgotten for others who failed once")
		}
	})
}

// TestLockedOutLooksLikeAWrongPassword, for all mechanisms.
func TestLockedOutLooksLikeAWrongPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := newTestAuth(t)
		for range userFailures {
			auth.attempts.failed("10.0.0.1", "alice")
		}
		plain, _ := auth.Start(Plain, "10.0.0.1")
		_, _, err := plain.Step([]byte("\x00alice\x00geheim"))
		if !errors.Is(err, errTooMany) || !errors.Is(err, ErrFailed) || Told(err) != "authentication failed" {
			t.Errorf("PLAIN: %v", err)
		}
		scram, _ := auth.Start(ScramSHA256, "10.0.0.1")
		_, _, err = scram.Step([]byte("n,,n=alice,r=abc"))
		if !errors.Is(err, errTooMany) || Told(err) != "authentication failed" {
			t.Errorf("SCRAM: %v", err)
		}
		elsewhere, _ := auth.Start(Plain, "10.0.0.2")
		if _, done, err := elsewhere.Step([]byte("\x00alice\x00geheim")); !done || err != nil {
			t.Errorf("from another host: %v", err)
		}
	})
}

// TestUnknownUsersHaveTheIterationsOfKnownOnes, or their number would tell them
// apart.
func TestUnknownUsersHaveTheIterationsOfKnownOnes(t *testing.T) {
	c, err := NewCredential(ScramSHA256, "geheim", 8192)
	if err != nil {
		t.Fatal(err)
	}
	a := New(users{"SCRAM-SHA-256/alice": c}, []byte("k"), nil)
	if got, known := a.lookup(ScramSHA256, "mallory"); known || got.Iterations != 8192 {
		t.Errorf("got %d iterations, known %v", got.Iterations, known)
	}
	if got, _ := a.lookup(ScramSHA512, "mallory"); got.Iterations != DefaultIterations {
		t.Errorf("got %d iterations of a mechanism that nobody uses", got.Iterations)
	}
}
