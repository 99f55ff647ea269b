// Package recordtest makes bytes for tests that the product reads and never
// writes: logs of the formats v0 and v1, as Kafka wrote them before 0.11.
package recordtest
