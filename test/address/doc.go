// Package address has loopback addresses for tests that need one for longer than a
// socket listens: a server that comes back where it was, and a place where nobody
// answers. A port that was free a moment ago is not enough: while a server is down,
// any other process that asks for some port may be given its.
//
// [Reserve] binds a socket and does not listen on it. Linux then gives the port to
// nobody who asks for any, refuses connections to it, and lets a server listen that
// names it, as long as both set SO_REUSEADDR (socket(7)); what the net package
// listens on does. Elsewhere the port is only one that was free.
package address
