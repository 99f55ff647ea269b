package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTheCertificateOfTheAPIRotates(t *testing.T) {
	cert, key := certificates(t)
	write(t, map[string]string{"cert.pem": cert, "key.pem": key})
	var logged bytes.Buffer
	c, err := loadCertificate("cert.pem", "key.pem", slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	get := func() string {
		pair, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(pair.Certificate[0])
	}
	moment := time.Now()
	put := func(files map[string]string) {
		moment = moment.Add(time.Second) // file systems may count in seconds
		for name, text := range files {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(name, moment, moment); err != nil {
				t.Fatal(err)
			}
		}
	}

	first := get()
	put(map[string]string{"key.pem": "torn"})
	for range 2 {
		if get() != first {
			t.Error("a pair that does not load has put the good one out of use")
		}
	}
	if n := strings.Count(logged.String(), "cannot be read"); n != 1 {
		t.Errorf("said %d times, want once:\n%s", n, &logged)
	}
	cert, key = certificates(t)
	put(map[string]string{"cert.pem": cert, "key.pem": key})
	if get() == first {
		t.Error("the new certificate is not in use")
	}
	if err := os.Remove("key.pem"); err != nil {
		t.Fatal(err)
	}
	if get() == first {
		t.Error("an old certificate came back")
	}
	if _, err := loadCertificate("cert.pem", "key.pem", c.log); err == nil {
		t.Error("no key at the start: want an error")
	}
}
