package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillhq/waybill/api"
)

// server is how a command reaches the fleet: flags, each with an environment
// variable behind it. A flag wins.
type server struct {
	url       string
	tokenFile string
	caFile    string
	timeout   time.Duration
	node      string // for what a single node is asked
}

func (s *server) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.url, "server", envOr("WAYBILL_SERVER", "http://127.0.0.1:8080"), "URL of any node's API ($WAYBILL_SERVER)")
	f.StringVar(&s.tokenFile, "token-file", os.Getenv("WAYBILL_TOKEN_FILE"), "file with your API token ($WAYBILL_TOKEN_FILE, or the token itself in $WAYBILL_TOKEN)")
	f.StringVar(&s.caFile, "ca-file", os.Getenv("WAYBILL_CA_FILE"), "CA of an https server ($WAYBILL_CA_FILE)")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "for each answer of the fleet; 0: none")
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// call makes one request and decodes the answer into out (nil: none is wanted).
// Problems come back as errors with their hint and exit code.
func (s *server) call(ctx context.Context, method, path string, body []byte, out any) error {
	return s.callAt(ctx, method, path, body, "", out)
}

// callAt is call at a revision of the objects, if one is given.
func (s *server) callAt(ctx context.Context, method, path string, body []byte, revision string, out any) error {
	raw, err := s.fetch(ctx, method, path, body, revision)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: answer is not what this version expects: %w", method, path, err)
	}
	return nil
}

// fetch is callAt without decoding.
func (s *server) fetch(ctx context.Context, method, path string, body []byte, revision string) ([]byte, error) {
	header := http.Header{}
	if revision != "" {
		header.Set("If-Match", strconv.Quote(revision))
	}
	raw, _, err := s.exchange(ctx, method, path, body, header)
	return raw, err
}

// exchange sends a request with a header of its own and returns the whole answer.
func (s *server) exchange(ctx context.Context, method, path string, body []byte, header http.Header) ([]byte, http.Header, error) {
	client, err := s.http()
	if err != nil {
		return nil, nil, err
	}
	defer client.CloseIdleConnections()
	bounded := ctx
	if s.timeout > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	req, err := s.request(bounded, method, path, body)
	if err != nil {
		return nil, nil, err
	}
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, s.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, s.unreachable(ctx, err)
	}
	if resp.StatusCode >= 400 {
		return nil, nil, problem(resp.StatusCode, raw)
	}
	return raw, resp.Header, nil
}

// unreachable tells a server that does not answer from a person who waits no
// longer.
func (s *server) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var where *url.Error // says what was asked, which the reader knows
	if errors.As(err, &where) {
		err = where.Err
	}
	hint := "is a node running there? see --server (or $WAYBILL_SERVER) and --ca-file"
	if errors.Is(err, context.DeadlineExceeded) {
		err, hint = fmt.Errorf("no answer within %s", s.timeout), "the fleet may be without a majority; --timeout waits longer"
	}
	return &codedError{fmt.Errorf("reach the fleet at %s: %w", s.url, err), exitUnreachable, hint}
}

func (s *server) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	u, err := url.Parse(s.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, withCode(exitInvalid, fmt.Errorf("--server %s: write a URL like http://127.0.0.1:8080", s.url))
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.url, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, withCode(exitInvalid, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/yaml")
	}
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

func (s *server) http() (*http.Client, error) {
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if s.caFile != "" {
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return nil, withCode(exitInvalid, fmt.Errorf("--ca-file: %w", err))
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, withCode(exitInvalid, fmt.Errorf("--ca-file %s: no certificate in it", s.caFile))
		}
	}
	return &http.Client{Transport: t}, nil
}

func (s *server) token() (string, error) {
	if s.tokenFile == "" {
		return os.Getenv("WAYBILL_TOKEN"), nil
	}
	b, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return "", withCode(exitInvalid, fmt.Errorf("--token-file: %w", err))
	}
	return strings.TrimSpace(string(b)), nil
}

// problem makes an error of a problem document: every fault, then the hint.
func problem(status int, raw []byte) error {
	var p api.Error
	if err := json.Unmarshal(raw, &p); err != nil || p.Status == 0 {
		return fmt.Errorf("the server answered %d: %s", status, bytes.TrimSpace(raw))
	}
	text := p.Detail
	for _, f := range p.Errors {
		if f.Location != "" {
			text += "\n  " + f.Location + ": " + f.Message
		} else {
			text += "\n  " + f.Message
		}
	}
	code, hint := exitFailed, p.Hint
	switch status {
	case http.StatusUnauthorized: // its hint is for those who write requests
		hint = "give your token with --token-file (or $WAYBILL_TOKEN_FILE, or $WAYBILL_TOKEN)"
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		code = exitInvalid
	case http.StatusPreconditionFailed, http.StatusConflict:
		code = exitConflict
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = exitUnreachable
	}
	return &codedError{errors.New(text), code, hint}
}
