// Package api holds the nouns of Sallyport and the words in which its parts
// report failure: users, roles, sessions, Kubernetes clusters and events, how
// they read as YAML and JSON, what makes them valid, and one error type that
// travels unchanged from the store to an HTTP answer, a peer link, a CLI exit
// code or a Kubernetes Status.
//
// It imports nothing of the project, so everything may import it, and nothing
// heavy, because tsh links it and must start in a few milliseconds.
//
// An attacker reaches this package through the documents and names that people
// and identity providers send. Every decoder here is strict about fields and
// sizes, and names are restricted at creation (see ValidateName), so that no
// later layer has to escape them into a certificate, a header or a log line.
package api
