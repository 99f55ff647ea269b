package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// keysAgain is how soon keys are looked for again: a file that may have
	// changed, a URL after a token with an unknown key or a failure.
	keysAgain = 10 * time.Second
	// keysTimeout and maxKeys bound what a server of keys can make us wait for
	// and hold.
	keysTimeout = 5 * time.Second
	maxKeys     = 1 << 20
	minRSABits  = 2048
)

// keySet is the public keys that tokens are signed with, as of the last look.
type keySet struct {
	cfg    *TokenConfig
	client *http.Client
	keys   atomic.Pointer[[]jose.JSONWebKey]
	// wanted has a value when a token named a key that is not there.
	wanted chan struct{}
}

// checkURL says why keys may not come from a URL: anything but https, or a host
// that nobody allowed, would make the broker a reader of files and of other
// people's networks (CVE-2024-31141, CVE-2025-27817).
func (c *TokenConfig) checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https":
		return fmt.Errorf("%q is not https", raw)
	case u.User != nil:
		return fmt.Errorf("%q has a user in it", u.Redacted())
	case !slices.Contains(c.AllowedHosts, u.Hostname()):
		return fmt.Errorf("host %q is not one of the allowed hosts", u.Hostname())
	}
	return nil
}

func newKeySet(cfg *TokenConfig) (*keySet, error) {
	k := &keySet{cfg: cfg, wanted: make(chan struct{}, 1)}
	if cfg.JWKSURL == "" {
		return k, nil
	}
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if cfg.JWKSCAFile != "" {
		pem, err := os.ReadFile(cfg.JWKSCAFile)
		if err != nil {
			return nil, fmt.Errorf("jwks ca: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("jwks ca: no certificate in %s", cfg.JWKSCAFile)
		}
	}
	k.client = &http.Client{
		Transport: transport, Timeout: keysTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("too many redirects")
			}
			return cfg.checkURL(r.URL.String())
		},
	}
	return k, nil
}

// Run keeps the keys fresh until ctx ends. What cannot be read leaves the last
// good keys in use.
func (t *Tokens) Run(ctx context.Context, log *slog.Logger) error {
	if t.keys == nil {
		<-ctx.Done()
		return nil
	}
	return t.keys.run(ctx, log)
}

func (k *keySet) run(ctx context.Context, log *slog.Logger) error {
	every := keysAgain // a file costs nothing to read
	if k.cfg.JWKSURL != "" {
		every = k.cfg.JWKSRefresh
	}
	next := every
	if k.keys.Load() == nil {
		next = keysAgain
	}
	lastFault := ""
	for {
		soon := time.NewTimer(keysAgain)
		later := time.NewTimer(next)
		wanted := k.wanted
		select {
		case <-ctx.Done():
			return nil
		case <-later.C:
		case <-soon.C:
			// From now on a token with an unknown key is a reason to look.
			select {
			case <-ctx.Done():
				return nil
			case <-later.C:
			case <-wanted:
			}
		}
		soon.Stop()
		later.Stop()
		next = every
		err := k.refresh(ctx)
		if err == nil {
			lastFault = ""
			continue
		}
		next = min(every, keysAgain)
		if err.Error() != lastFault { // once, not every ten seconds
			lastFault = err.Error()
			log.Error("refresh the keys of tokens: the last good ones stay in use", "err", err)
		}
	}
}

// refresh reads the keys.
func (k *keySet) refresh(ctx context.Context) error {
	var raw []byte
	var err error
	if k.cfg.JWKSFile != "" {
		raw, err = os.ReadFile(k.cfg.JWKSFile)
	} else {
		raw, err = k.download(ctx)
	}
	if err != nil {
		return fmt.Errorf("jwks: %w", err)
	}
	keys, err := parseKeys(raw)
	if err != nil {
		return fmt.Errorf("jwks: %w", err)
	}
	k.keys.Store(&keys)
	return nil
}

func (k *keySet) download(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.cfg.JWKSURL, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", k.cfg.JWKSURL, resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxKeys+1))
	if err == nil && len(raw) > maxKeys {
		err = fmt.Errorf("%s has more than %d bytes", k.cfg.JWKSURL, maxKeys)
	}
	return raw, err
}

// parseKeys reads a JWK set (RFC 7517). Keys that are not for signatures, not
// public or of a kind that is not known are left out; that none is left is an
// error.
func parseKeys(raw []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	var keys []jose.JSONWebKey
	for _, one := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(one); err != nil || !usable(&key) {
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of %d keys is a public one for signatures", len(set.Keys))
	}
	return keys, nil
}

func usable(key *jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" || !key.Valid() {
		return false
	}
	switch public := key.Key.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // a secret one has no business here
}

// find returns the public key for a token's header. A token that names no key is
// for the only one.
func (k *keySet) find(id, algorithm string) (any, error) {
	var keys []jose.JSONWebKey
	if have := k.keys.Load(); have != nil {
		keys = *have
	}
	if id == "" && len(keys) == 1 {
		id = keys[0].KeyID
	} else if id == "" {
		return nil, fmt.Errorf("token names none of %d keys", len(keys))
	}
	for i := range keys {
		if keys[i].KeyID == id && (keys[i].Algorithm == "" || keys[i].Algorithm == algorithm) {
			return keys[i].Key, nil
		}
	}
	select {
	case k.wanted <- struct{}{}:
	default:
	}
	return nil, fmt.Errorf("no key %q for %s", id, algorithm)
}
