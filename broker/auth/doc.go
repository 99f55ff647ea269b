// Package auth answers the server's side of SASL: SCRAM-SHA-256 and
// SCRAM-SHA-512 (RFC 5802, RFC 7677), PLAIN (RFC 4616) and OAUTHBEARER (RFC 7628,
// KIP-255, KIP-768). It also makes user names of client certificates
// ([PrincipalMapping]).
//
// The path through it: a connection asks for a [Session] by mechanism
// ([Authenticator.Start]), feeds it the client's tokens ([Session.Step]) and,
// when it is done, takes the user's name. A session serves one exchange and one
// goroutine; for as long as its connection lives it can be asked whether what it
// proved still holds.
//
// What it promises:
//
//   - Only keys are stored: a [Credential] is salt, iterations, StoredKey and
//     ServerKey. A password cannot be read back from it. PLAIN is checked
//     against the same credentials by deriving the keys again.
//   - An unknown user costs and looks like a known one: it gets a salt that is a
//     keyed hash of its name, stable over time, iterations that others have, and
//     then fails at the proof as a wrong password does.
//   - Guessing is slow: who failed too often from an address is refused unseen
//     (attempts.go), and no more than half of the processors derive from
//     passwords.
//   - A token is judged by keys from where the operator said, or not at all
//     ([TokenConfig], jwks.go). Nothing about a token is optional that decides who
//     its bearer is.
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
// JSON Web Tokens are verified by go-jose, which takes only the algorithms that it
// is told; which key, and what the claims must say, is decided in oauth.go.
//
// What is left out: channel binding (Kafka clients do not offer it), delegation
// tokens, GSSAPI, and the introspection of opaque tokens.
package auth
