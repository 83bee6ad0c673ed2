// Package authapi answers the HTTP calls that belong to identity: the public
// ones (ping, login, links, console logins, agents that join) and the authenticated
// ones below /v1 (documents, resets, sessions, tokens, agents, clusters). See internal/api/rest.go for paths and
// bodies.
//
// Who calls is decided before this package: the server puts a Caller into the
// request's context, from the unix socket or from the verified certificate of
// the connection. No header ever says who somebody is. Over the socket
// everything is allowed; others are asked for the rules of their roles, at
// every call, but may always list and end their own sessions.
//
// No call looks at a cookie: a web session is for the pages alone (proxy/web),
// whose forms have tokens.
//
// What an attacker might try: bodies without end (bounded), fields that mean
// nothing here but something elsewhere (refused by name), another site's page
// that sends a form with the victim's browser (cross-origin requests are
// refused), a certificate that names a web session (worth nothing), tokens in logs
// (answers with secrets are marked no-store; nothing of a request's body is
// logged), a reset as a way to somebody's greater rights (see auth.Users.Reset).
package authapi
