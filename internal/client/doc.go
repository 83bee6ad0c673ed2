// Package client speaks Sallyport's HTTP interface (internal/api/rest.go) for
// the command lines: to a replica's unix socket as the machine's admin, to the
// public web name as a stranger who wants to log in, and to api.<clusterName>
// as the user of a client certificate.
//
// The three differ in whom they trust. The web name is verified by the system's
// roots or a CA given by the user; the api name only by the cluster's host CA,
// which came with the login, so that no public authority can stand in between.
//
// What an attacker might try: to be the server. Answers are bounded, what a
// login returns must fit the key and the name that were sent, and names that
// would end up in files or on a terminal are checked before they are used.
package client
