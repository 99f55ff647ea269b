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
	"net/http"
	"os"
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
}

func (s *server) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.url, "server", envOr("WAYBILL_SERVER", "http://127.0.0.1:8080"), "URL of any node's API ($WAYBILL_SERVER)")
	f.StringVar(&s.tokenFile, "token-file", os.Getenv("WAYBILL_TOKEN_FILE"), "file with your API token ($WAYBILL_TOKEN_FILE, or the token itself in $WAYBILL_TOKEN)")
	f.StringVar(&s.caFile, "ca-file", os.Getenv("WAYBILL_CA_FILE"), "CA of an https server ($WAYBILL_CA_FILE)")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "for the whole command")
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
	raw, err := s.fetch(ctx, method, path, body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("%s %s: answer is not what this version expects: %w", method, path, err)
	}
	return nil
}

// fetch is call without decoding.
func (s *server) fetch(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	client, err := s.http()
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.url, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, withCode(exitInvalid, fmt.Errorf("--server %s: %w", s.url, err))
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
	resp, err := client.Do(req)
	if err != nil {
		return nil, &codedError{fmt.Errorf("reach the fleet: %w", err), exitUnreachable, "is a node running there? --server (or $WAYBILL_SERVER) is " + s.url}
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, withCode(exitUnreachable, fmt.Errorf("read the fleet's answer: %w", err))
	}
	if resp.StatusCode >= 400 {
		return nil, problem(resp.StatusCode, raw)
	}
	return raw, nil
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
	code := exitFailed
	switch status {
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		code = exitInvalid
	case http.StatusPreconditionFailed, http.StatusConflict:
		code = exitConflict
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		code = exitUnreachable
	}
	return &codedError{errors.New(text), code, p.Hint}
}
