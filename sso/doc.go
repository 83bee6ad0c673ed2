// Package sso starts logins at identity providers, takes what browsers bring back
// and gives an identity with attributes. Its parts github, oidc and saml each speak
// one protocol; what a user may do with an identity is decided by internal/auth,
// never here.
//
// An attacker controls what the browser brings back: forged, replayed, foreign
// and half-signed answers, redirects to other hosts, logins started for someone
// else. Every answer is tied to the login that asked for it (Flow), and to one use.
package sso
