// Package clienttest is a stand-in for a replica in tests of the command lines:
// it speaks internal/api/rest.go on a unix socket and over TLS, with throwaway
// authorities, and holds its state in memory. It knows no rules beyond what the
// command lines can see.
package clienttest
