package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/waybillhq/waybill/flow"
)

const unsupportedVersion = 35

// handshake agrees on versions and authenticates. It is bounded by the context
// or, without a deadline there, by three times the time to connect.
func (c *Conn) handshake(ctx context.Context, auth *flow.SASL, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*dialTimeout)
	defer cancel()
	if err := c.agree(ctx); err != nil {
		return err
	}
	if auth == nil {
		return nil
	}
	mech, err := mechanism(auth)
	if err != nil {
		return err
	}
	if err := c.authenticate(ctx, mech, addr); err != nil {
		return fmt.Errorf("authenticate with %s as %s: %w", mech.Name(), auth.Username, err)
	}
	return nil
}

func (c *Conn) agree(ctx context.Context) error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = Software, "1"
	for _, version := range []int16{3, 0} {
		answer, err := c.Request(ctx, req, version)
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode == unsupportedVersion && version > 0 {
			continue
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return fmt.Errorf("ApiVersions: %w", err)
		}
		versions := make(map[int16][2]int16, len(resp.ApiKeys))
		for _, k := range resp.ApiKeys {
			versions[k.ApiKey] = [2]int16{k.MinVersion, k.MaxVersion}
		}
		c.versions = versions
		return nil
	}
	return errors.New("ApiVersions: the broker speaks no version of it")
}

func (c *Conn) authenticate(ctx context.Context, mech sasl.Mechanism, addr string) error {
	hello := kmsg.NewPtrSASLHandshakeRequest()
	hello.Mechanism = mech.Name()
	answer, err := c.Request(ctx, hello, 1)
	if err != nil {
		return err
	}
	shake := answer.(*kmsg.SASLHandshakeResponse)
	if err := kerr.ErrorForCode(shake.ErrorCode); err != nil {
		return fmt.Errorf("%w (the broker offers %v)", err, shake.SupportedMechanisms)
	}
	if shake.Version < 1 {
		return errors.New("the broker is too old: it wants authentication outside of requests")
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	session, message, err := mech.Authenticate(ctx, host)
	if err != nil {
		return err
	}
	for done := false; !done; {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.SASLAuthBytes = message
		answer, err := c.Request(ctx, req, 2)
		if err != nil {
			return err
		}
		resp := answer.(*kmsg.SASLAuthenticateResponse)
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return refusal(err, resp.ErrorMessage)
		}
		if done, message, err = session.Challenge(resp.SASLAuthBytes); err != nil {
			return err
		}
		if lifetime := time.Duration(resp.SessionLifetimeMillis) * time.Millisecond; lifetime > 0 {
			c.renewAt = time.Now().Add(lifetime - min(lifetime/4, time.Minute))
		}
	}
	return nil
}

func refusal(err error, message *string) error {
	if message == nil || *message == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, *message)
}
