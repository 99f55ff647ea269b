// Package test holds the rules of the house as tests, and whole stories that
// cross packages.
package test
