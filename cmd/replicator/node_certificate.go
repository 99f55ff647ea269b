package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// certificate is that of the HTTP API. Its files are looked at for every new
// connection and read again when they have changed; a pair that does not load
// leaves the last good one in use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu    sync.Mutex
	stamp string // of the files as they were read last
	pair  *tls.Certificate
}

func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.stamp = c.stampNow()
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate of the API: %w", err)
	}
	c.pair = &pair
	return c, nil
}

// get is for [tls.Config].GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.stampNow()
	if now == c.stamp {
		return c.pair, nil
	}
	c.stamp = now
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Error("the API's certificate cannot be read: the last good one stays in use", "error", err)
		return c.pair, nil
	}
	c.pair = &pair
	c.log.Info("the API's certificate was read again")
	return c.pair, nil
}

// stampNow tells the files as they are from others.
func (c *certificate) stampNow() (stamp string) {
	for _, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamp += fmt.Sprintln(info.Size(), info.ModTime().UnixNano())
		}
	}
	return stamp
}
