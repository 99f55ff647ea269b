// Command replicator is the whole of Waybill in one binary: the replicator nodes
// of a fleet (serve), the bundled broker (broker), a demonstration that checks
// itself (demo), and the command line for people.
//
// main is a table of contents; each verb lives in a file of its own. The files
// that begin with node_ wire a replicator node: they hand what one package
// publishes to the package that needs it, and decide nothing.
package main
