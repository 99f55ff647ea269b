// Package filter decides by an expression which records a flow copies.
//
// The language is that of github.com/expr-lang/expr, cut down to what costs at
// most time and memory in proportion to the record: no variables, no ranges, no
// loop within a loop, no function that makes much of little, regular expressions
// (RE2) that are written out. An expression knows nothing but the record, so it
// answers the same whenever, and wherever, it is asked.
//
// What an expression sees:
//
//	topic, partition, offset   where the source has the record
//	timestamp                  milliseconds since 1970
//	key, value                 texts of the bytes; "" if null
//	keyIsNull, valueIsNull     whether there is none
//	headers                    by key, texts; of several with one key the last
//	json                       the value as JSON, nil if null; read only where
//	                           the expression mentions it
//
// # The one path through it
//
// The words of an expression are read by expr's own lexer, and bind as its table
// of operators says. What stands behind them is built here: [Compile] makes a tree
// of closures, each of which knows what kind of value it answers, or that only the
// record can tell ([dynamic]); whatever cannot fit together is refused then, with
// line, column and what to write instead. [Filter.Match] calls the root of the tree.
//
// expr's own evaluator is not used, for it finds methods by name through reflection:
// a program that does so anywhere keeps every method of every type that it links,
// which was 7 MB of this one. It is what the tests compare with.
//
// # What it promises
//
// An expression consists of at most a thousand nodes, each of which looks at most
// once at each byte of the record, except within a function that goes through a
// list: what these cost, and what texts are made on the way, is counted, and an
// evaluation that exceeds its [budget] ends with an error.
//
// A record that an expression cannot be asked about (the value is not JSON, a
// number is compared with a text) is an error of that record, and neither a yes
// nor a no. Errors name places and kinds, never what the record contains.
//
// The package does no I/O and starts no goroutine.
package filter
