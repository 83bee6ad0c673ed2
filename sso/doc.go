// Package sso starts logins at identity providers, takes their callbacks and
// gives back an identity with attributes. Its parts github, oidc and saml each
// speak one protocol; what a user may do with that identity is decided by
// internal/auth, never here.
//
// An attacker controls what the browser brings back: forged, replayed, foreign
// and half-signed answers, redirects to other hosts, logins started for someone
// else. Every answer is tied to the login that asked for it, and to one use.
package sso
