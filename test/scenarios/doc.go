// Package scenarios plays what goes wrong in a day with the product, as an
// operator meets it: brokers and nodes are processes of the real binary, what is
// wrong is made from outside, and what there is to see is seen over HTTP, on the
// command line and by ordinary Kafka clients.
//
// Every scenario has the same five acts: something is wrong; the status says
// what, where, and what to do; nothing is lost and nothing has ended; the cause
// is removed; the fleet recovers by itself, and the copy is exact.
//
// A [world] is what one scenario needs, under a temporary folder. Its processes
// end with the test: each watches a pipe that only the test holds open. Scenarios
// share nothing, so they run beside each other.
package scenarios
