package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillhq/waybill/broker/auth"
)

// reauthInterval is how often at most a connection may begin to re-authenticate.
// A SaslHandshake that comes sooner is answered as one that is out of place.
const reauthInterval = time.Second

// errSessionEnded says that what a client proved does not hold any more: it is
// not answered, and comes again with a new proof.
var errSessionEnded = errors.New("session ended")

// session is what a connection has proven, and until when that holds. It belongs
// to the connection's worker. The zero session never ends.
type session struct {
	proof     auth.Session // nil without SASL
	mechanism auth.Mechanism
	expires   time.Time // of proof, connections.max.reauth.ms or both; zero is never
	began     time.Time // the last re-authentication

	// certificate says why a client certificate is not good any more; nil
	// without one.
	certificate func(now time.Time) error

	again  saslExchange // a re-authentication under way
	broken bool         // a re-authentication failed: nothing is answered any more
}

// ended says why no ordinary request may be answered, if so. Kafka cuts expired
// sessions likewise, when they are used. Users that were deleted are cut as
// well, which Kafka does not do.
func (s *session) ended(now time.Time, cutChanged bool) error {
	switch {
	case !s.expires.IsZero() && now.After(s.expires):
		return fmt.Errorf("%w: expired without re-authentication", errSessionEnded)
	case s.certificate != nil:
		if err := s.certificate(now); err != nil {
			return fmt.Errorf("%w: %w", errSessionEnded, err)
		}
	}
	if s.proof == nil {
		return nil
	}
	switch standing := s.proof.Standing(); {
	case standing == auth.Deleted:
		return fmt.Errorf("%w: user was deleted", errSessionEnded)
	case standing == auth.Changed && cutChanged:
		return fmt.Errorf("%w: credential was changed", errSessionEnded)
	}
	return nil
}

// establish takes over what an exchange has proven, and returns how long it
// holds; 0 is for good.
func (c *conn) establish(x saslExchange) time.Duration {
	now := time.Now()
	c.client.Principal = "User:" + x.session.User()
	s := &c.session
	s.proof, s.mechanism, s.again = x.session, x.mechanism, saslExchange{}
	s.expires = x.session.Expires()
	if most := c.ln.MaxReauth; most > 0 && (s.expires.IsZero() || s.expires.After(now.Add(most))) {
		s.expires = now.Add(most)
	}
	if s.expires.IsZero() {
		return 0
	}
	// An already expired session would read as one for good.
	return max(time.Millisecond, s.expires.Sub(now))
}

// admits says whether the connection may ask for key now. An error closes it.
func (c *conn) admits(key kmsg.Key) error {
	s := &c.session
	if s.broken {
		return errSessionEnded
	}
	if s.again.session != nil && key != kmsg.SASLAuthenticate {
		return fmt.Errorf("%w: %s in the middle of a re-authentication", errFrame, key.Name())
	}
	if s.proof != nil && (key == kmsg.SASLHandshake || key == kmsg.SASLAuthenticate) {
		return nil // the way back
	}
	if err := s.ended(time.Now(), c.b.cfg.CutChangedUsers); err != nil {
		c.b.metrics.SessionsEnded.Add(1)
		return err
	}
	return nil
}

// reauthHandshake answers SaslHandshake on a connection that is open already: it
// begins a re-authentication (KIP-368) with the mechanism that was used before.
// Left out: SaslHandshake v0, after which tokens would travel without requests.
// The first exchange is in sasl.go.
func (b *Broker) reauthHandshake(_ context.Context, r *request, q *kmsg.SASLHandshakeRequest) pending {
	resp := q.ResponseKind().(*kmsg.SASLHandshakeResponse)
	c := r.conn
	if c == nil || c.session.proof == nil || r.version == 0 || time.Since(c.session.began) < b.reauthEvery {
		resp.ErrorCode = kerr.IllegalSaslState.Code
		return settled(resp, nil)
	}
	c.session.began = time.Now()
	x := saslExchange{again: r.client.Principal}
	resp, err := c.handshake(&x, q)
	if err == nil && x.mechanism != c.session.mechanism {
		x.refused = fmt.Errorf("%w: re-authentication with %s after %s", auth.ErrFailed, x.mechanism, c.session.mechanism)
	}
	c.session.again, c.session.broken = x, err != nil
	return settled(resp, err)
}

// reauthenticate answers the SaslAuthenticate requests of a re-authentication.
// It takes the place of the session only when it is done.
func (b *Broker) reauthenticate(ctx context.Context, r *request, q *kmsg.SASLAuthenticateRequest) pending {
	c := r.conn
	if c == nil || c.session.again.session == nil {
		resp := q.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.IllegalSaslState.Code
		resp.ErrorMessage = kmsg.StringPtr("SaslAuthenticate without a SaslHandshake before it")
		return settled(resp, nil)
	}
	resp, _, err := c.saslStep(ctx, c.session.again, q)
	c.session.broken = err != nil
	return settled(resp, err)
}

// settled is a pending with nothing to wait for. With an error the response is
// sent and then the connection closed.
func settled(resp kmsg.Response, err error) pending {
	return func(context.Context) (kmsg.Response, error) { return resp, err }
}
