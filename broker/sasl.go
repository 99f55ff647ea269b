package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/auth"
)

// failedAuthDelay slows guessing down (connection.failed.authentication.delay.ms).
const failedAuthDelay = 100 * time.Millisecond

// maxUnauthenticatedFrames bounds an exchange: ApiVersions in two versions, a
// handshake, and the steps of the longest mechanism.
const maxUnauthenticatedFrames = 8

// mechanisms are what a listener offers. PLAIN sends the password itself, so it
// needs TLS.
func (l *Listener) mechanisms() []string {
	m := []string{string(auth.ScramSHA512), string(auth.ScramSHA256)}
	if l.Protocol == SASLTLS {
		m = append(m, string(auth.Plain))
	}
	return m
}

// authenticate takes a connection through SASL: ApiVersions, SaslHandshake and
// SaslAuthenticate in this order, nothing else. Every other request, and every
// one after a failure, closes the connection.
func (c *conn) authenticate(ctx context.Context) error {
	var session auth.Session
	for range maxUnauthenticatedFrames {
		raw, err := c.frames.next()
		if err != nil {
			return err
		}
		h := frameHeader(raw)
		row := c.b.table[h.key]
		if h.version < row.min || h.version > row.max {
			if row.key != kmsg.ApiVersions {
				return fmt.Errorf("%w: %s v%d is not supported", errFrame, row.key.Name(), h.version)
			}
			if err := c.respond(h, c.b.unsupportedAPIVersions()); err != nil {
				return err
			}
			continue
		}
		body := row.key.Request()
		body.SetVersion(h.version)
		if c.client.ClientID, err = decodeRequest(raw, body, row.form(h.version)); err != nil {
			return err
		}
		switch q := body.(type) {
		case *kmsg.ApiVersionsRequest:
			c.noteSoftware(q)
			if err := c.respond(h, c.b.apiVersions(ctx, nil, q)); err != nil {
				return err
			}
		case *kmsg.SASLHandshakeRequest:
			if session != nil {
				return fmt.Errorf("%w: second SaslHandshake", errFrame)
			}
			if session, err = c.handshake(h, q); err != nil {
				return err
			}
			if h.version == 0 {
				return c.rawExchange(ctx, session)
			}
		case *kmsg.SASLAuthenticateRequest:
			if session == nil {
				return fmt.Errorf("%w: SaslAuthenticate before SaslHandshake", errFrame)
			}
			if done, err := c.authenticateStep(ctx, h, session, q); done || err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%w: %d requests without authentication", errFrame, maxUnauthenticatedFrames)
}

func (c *conn) handshake(h header, q *kmsg.SASLHandshakeRequest) (auth.Session, error) {
	resp := q.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SetVersion(h.version)
	resp.SupportedMechanisms = c.ln.mechanisms()
	var session auth.Session
	if slices.Contains(resp.SupportedMechanisms, q.Mechanism) {
		session, _ = c.b.auth.Start(auth.Mechanism(q.Mechanism))
	}
	if session == nil {
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		return nil, errors.Join(fmt.Errorf("sasl mechanism %q is not offered", q.Mechanism), c.respond(h, resp))
	}
	return session, c.respond(h, resp)
}

func (c *conn) authenticateStep(ctx context.Context, h header, s auth.Session, q *kmsg.SASLAuthenticateRequest) (done bool, err error) {
	resp := q.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	resp.SetVersion(h.version)
	reply, done, err := s.Step(q.SASLAuthBytes)
	if err != nil {
		wait(ctx, failedAuthDelay)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		resp.ErrorMessage = kmsg.StringPtr("authentication failed")
		return false, errors.Join(err, c.respond(h, resp))
	}
	resp.SASLAuthBytes = reply
	if resp.SASLAuthBytes == nil {
		resp.SASLAuthBytes = []byte{}
	}
	if done {
		c.client.Principal = "User:" + s.User()
	}
	return done, c.respond(h, resp)
}

// rawExchange is authentication as before KIP-152: tokens as bare frames. The
// only answer to a failure is to close.
func (c *conn) rawExchange(ctx context.Context, s auth.Session) error {
	for range maxUnauthenticatedFrames {
		token, err := c.frames.token(maxUnauthenticatedFrame)
		if err != nil {
			return err
		}
		reply, done, err := s.Step(token)
		if err != nil {
			wait(ctx, failedAuthDelay)
			return err
		}
		c.out = append(binary.BigEndian.AppendUint32(c.out[:0], uint32(len(reply))), reply...)
		if err := c.writeAll(c.out, false); err != nil {
			return err
		}
		if done {
			c.client.Principal = "User:" + s.User()
			return nil
		}
	}
	return fmt.Errorf("%w: %d sasl tokens", errFrame, maxUnauthenticatedFrames)
}

func (c *conn) respond(h header, resp kmsg.Response) error {
	c.out = appendResponse(c.out[:0], h.correlation, resp)
	_, err := c.nc.Write(c.out)
	return err
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// softwarePattern is what KIP-511 allows for a client's name and version.
var softwarePattern = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]{0,126}[a-zA-Z0-9])?$`)

// noteSoftware keeps what the client says it is, if it says so properly.
func (c *conn) noteSoftware(q *kmsg.ApiVersionsRequest) {
	if softwarePattern.MatchString(q.ClientSoftwareName) && softwarePattern.MatchString(q.ClientSoftwareVersion) {
		c.client.Software = q.ClientSoftwareName + "/" + q.ClientSoftwareVersion
	}
}
