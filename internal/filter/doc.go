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
// An expression is compiled once, by [Compile], which names line and column of
// what is wrong with it. A record that it cannot be asked about (the value is not
// JSON, a number is compared with a text) is an error of that record, and neither
// a yes nor a no.
//
// The package does no I/O and starts no goroutine.
package filter
