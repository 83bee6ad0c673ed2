// Package splice copies what goes over a connection, with a small buffer while little
// comes and a big one while much does: of thousands of watches and shells most say
// nothing at a time.
package splice
