// Package acl is Kafka's ACL model: rules, what they allow, how filters find
// them and how two sets of them differ. The bundled broker authorises requests
// with it, the lineage queries and the HTTP API decide with it who may see what.
//
// The path through the package: [Rule] values (from CreateAcls, from
// DescribeAcls of another cluster, or from text by [ParseRule]) become a [Set];
// [Set.Allowed] answers. A Set is immutable: whoever changes the rules builds a
// new one and publishes it by an atomic pointer, so a request is judged by one
// state of the rules and never by half of a change. All methods of all types are
// safe for concurrent use.
//
// # What decides
//
// As Kafka's StandardAuthorizer does:
//
//   - A super user, named exactly as "User:name", may do anything; no rule
//     takes that away, and "User:*" in the list of super users is a name, not a
//     wildcard.
//   - Otherwise a rule applies when its principal is the caller's or "User:*",
//     its host is the caller's address or "*", and its pattern covers the name:
//     a literal one by equality, the literal "*" always, a prefixed one by
//     prefix.
//   - A matching Deny wins over every Allow, whichever is more specific.
//   - All stands for each operation, in both permissions.
//   - Allow of Read, Write, Delete or Alter implies Describe; Allow of
//     AlterConfigs implies DescribeConfigs. Deny implies nothing: who is denied
//     Read may still be allowed to Describe.
//   - Nothing matching means no. In a permissive set ([NewPermissiveSet], Kafka's
//     allow.everyone.if.no.acl.found) it means yes on a resource that no pattern of
//     any rule covers, and no on all others.
//
// Hosts are addresses, never names, so no answer depends on reverse DNS
// (KAFKA-13698). Two spellings of one address are one host: Java prints IPv6
// without compression, and a dual-stack listener maps IPv4 into IPv6.
//
// [Set.AllowedOnAny] is KIP-679's question (may an idempotent producer get an
// id: is there any topic that it may write). The answer is yes exactly when some
// name exists for which Allowed says yes, which takes dominant denies into
// account.
//
// # What is left out
//
// Group membership of principals: rules name principals one by one, as in Kafka.
// Ranges of addresses: a host is one address or all of them, as in Kafka.
package acl
