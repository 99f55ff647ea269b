// Package auth answers the server's side of SASL: SCRAM-SHA-256 and
// SCRAM-SHA-512 (RFC 5802, RFC 7677) and PLAIN (RFC 4616).
//
// The path through it: a connection asks for a [Session] by mechanism
// ([Authenticator.Start]), feeds it the client's tokens ([Session.Step]) and,
// when it is done, takes the user's name. A session serves one exchange and one
// goroutine.
//
// What it promises:
//
//   - Only keys are stored: a [Credential] is salt, iterations, StoredKey and
//     ServerKey. A password cannot be read back from it. PLAIN is checked
//     against the same credentials by deriving the keys again.
//   - An unknown user costs and looks like a known one: it gets a salt that is a
//     keyed hash of its name, stable over time, and then fails at the proof as a
//     wrong password does.
//   - Nobody acts for another: an authorisation id other than the user's own
//     name is refused (CVE-2017-12610).
//   - The final nonce is compared (CVE-2024-56128), secrets in constant time
//     (CVE-2021-38153). It must begin with the client's nonce and end with the
//     whole nonce that the server sent.
//   - Every failure is [ErrFailed] to the client; the cause is for the log.
//
// The server's side of SCRAM is our own, small as it is, for the sake of that last
// comparison. RFC 5802 demands equality and libraries insist on it; librdkafka
// before 2.6.1, which distributions still ship, puts the client's nonce in front
// once more. Kafka's own fix therefore asks how the nonce ends, and so must we.
// Nothing is given away: the part that makes an exchange unique is compared whole,
// and the proof covers the message as it was sent. The tests hold this side
// against clients that others wrote.
//
// What is left out: channel binding (Kafka clients do not offer it), delegation
// tokens, OAUTHBEARER and GSSAPI.
package auth
