// Package doctor examines what a fleet rests on: the clusters as they can be
// reached from here, certificates, rights, clocks, disks.
//
// [Clusters] looks at declared clusters and flows, from the machine that it runs on;
// it connects to every bootstrap server and to every broker under the address that
// the broker advertises, exactly as a copy would, and asks. It changes nothing
// anywhere. The other functions look at one thing of the machine. Each returns
// [Finding]s: what was looked at, where, what was found, and what to do about it.
//
// # What can be known of rights
//
// A broker tells a client what it may do with a topic, a group and the cluster
// (KIP-430). That is asked first. For transactional ids, for topics that do not
// exist yet and for brokers older than 2.3 the ACLs themselves are read, if the
// principal may Describe the cluster, and judged for the principal that SASL's
// user name makes. What neither says is reported as not known, never as held.
// Each finding names the way by which it is known.
//
// # What cannot be known
//
// Kafka's protocol does not tell a broker's clock. Super users of a cluster are not
// visible to its clients. Topics that the principal may not Describe are not listed:
// a flow whose patterns pick none may lack a right, or there is none.
//
// The package starts goroutines only within a call, and a look at clusters ends
// within [Limit].
package doctor
