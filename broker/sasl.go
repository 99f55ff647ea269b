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

// mechanisms are what a listener offers. PLAIN and OAUTHBEARER send what must
// stay secret, so without TLS they must be asked for by name.
func (l *Listener) mechanisms() []auth.Mechanism {
	switch {
	case len(l.Mechanisms) > 0:
		return l.Mechanisms
	case l.Protocol == SASLTLS:
		return []auth.Mechanism{auth.ScramSHA512, auth.ScramSHA256, auth.Plain}
	}
	return []auth.Mechanism{auth.ScramSHA512, auth.ScramSHA256}
}

// authenticate takes a connection through SASL: ApiVersions at most once, then
// SaslHandshake, then SaslAuthenticate, as Kafka's SaslServerAuthenticator does.
// Every other request, and every one after a failure, closes the connection.
func (c *conn) authenticate(ctx context.Context) error {
	var x saslExchange
	versions := false
	for range maxUnauthenticatedFrames {
		raw, err := c.frames.next()
		if err != nil {
			return err
		}
		h := frameHeader(raw)
		row := c.b.table[h.key]
		if h.version < row.min || h.version > row.max {
			if row.key != kmsg.ApiVersions || versions {
				return fmt.Errorf("%w: %s v%d is not supported", errFrame, apiName(row.key), h.version)
			}
			if err := c.respond(h, c.b.unsupportedAPIVersions()); err != nil {
				return err
			}
			continue
		}
		body := row.handle.empty()
		body.SetVersion(h.version)
		if c.client.ClientID, err = decodeRequest(raw, body, row.form(h.version)); err != nil {
			return err
		}
		switch q := body.(type) {
		case *kmsg.ApiVersionsRequest:
			if versions || x.session != nil {
				return fmt.Errorf("%w: ApiVersions out of order before authentication", errFrame)
			}
			versions = true
			c.noteSoftware(q)
			if err := c.respond(h, c.b.apiVersions(ctx, nil, q)); err != nil {
				return err
			}
		case *kmsg.SASLHandshakeRequest:
			if x.session != nil {
				return fmt.Errorf("%w: second SaslHandshake", errFrame)
			}
			resp, failed := c.handshake(&x, q)
			if err := errors.Join(failed, c.respond(h, resp)); err != nil {
				return err
			}
			if h.version == 0 {
				return c.rawExchange(ctx, x)
			}
		case *kmsg.SASLAuthenticateRequest:
			if x.session == nil {
				return fmt.Errorf("%w: SaslAuthenticate before SaslHandshake", errFrame)
			}
			resp, done, failed := c.saslStep(ctx, x, q)
			if err := errors.Join(failed, c.respond(h, resp)); done || err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("%w: %d requests without authentication", errFrame, maxUnauthenticatedFrames)
}

// saslExchange is an exchange under way; without a session there is none.
type saslExchange struct {
	session   auth.Session
	mechanism auth.Mechanism
	// again is the principal of a re-authentication, who must stay the same.
	again string
	// refused is why the exchange must fail whatever the client sends.
	refused error
}

// handshake answers SaslHandshake and begins an exchange. After an error the
// response is sent and the connection closed.
func (c *conn) handshake(x *saslExchange, q *kmsg.SASLHandshakeRequest) (*kmsg.SASLHandshakeResponse, error) {
	resp := q.ResponseKind().(*kmsg.SASLHandshakeResponse)
	resp.SetVersion(q.GetVersion())
	for _, m := range c.ln.mechanisms() {
		resp.SupportedMechanisms = append(resp.SupportedMechanisms, string(m))
	}
	if slices.Contains(resp.SupportedMechanisms, q.Mechanism) {
		x.mechanism = auth.Mechanism(q.Mechanism)
		x.session, _ = c.b.auth.Start(x.mechanism, c.client.Host)
	}
	if x.session == nil {
		resp.ErrorCode = kerr.UnsupportedSaslMechanism.Code
		return resp, fmt.Errorf("sasl mechanism %q is not offered", q.Mechanism)
	}
	return resp, nil
}

// saslStep answers SaslAuthenticate. After an error the response is sent and the
// connection closed.
func (c *conn) saslStep(ctx context.Context, x saslExchange, q *kmsg.SASLAuthenticateRequest) (resp *kmsg.SASLAuthenticateResponse, done bool, err error) {
	resp = q.ResponseKind().(*kmsg.SASLAuthenticateResponse)
	resp.SetVersion(q.GetVersion())
	reply, done, err := []byte(nil), false, x.refused
	if err == nil {
		reply, done, err = x.session.Step(q.SASLAuthBytes)
	}
	if done && x.again != "" && x.again != "User:"+x.session.User() {
		err = fmt.Errorf("%w: %s re-authenticated as another user", auth.ErrFailed, x.again)
	}
	if err != nil {
		wait(ctx, failedAuthDelay)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		resp.ErrorMessage = kmsg.StringPtr(auth.Told(err))
		return resp, false, err
	}
	if resp.SASLAuthBytes = reply; reply == nil {
		resp.SASLAuthBytes = []byte{}
	}
	if done {
		// Versions before 1 have no field for it; the session ends all the same.
		resp.SessionLifetimeMillis = c.establish(x).Milliseconds()
	}
	return resp, done, nil
}

// rawExchange is authentication as before KIP-152: tokens as bare frames. The
// only answer to a failure is to close.
func (c *conn) rawExchange(ctx context.Context, x saslExchange) error {
	for range maxUnauthenticatedFrames {
		token, err := c.frames.token(maxUnauthenticatedFrame)
		if err != nil {
			return err
		}
		reply, done, err := x.session.Step(token)
		if err != nil {
			wait(ctx, failedAuthDelay)
			return err
		}
		c.out = append(binary.BigEndian.AppendUint32(c.out[:0], uint32(len(reply))), reply...)
		if err := c.writeAll(c.out, false); err != nil {
			return err
		}
		if done {
			c.establish(x)
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
