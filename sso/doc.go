// Package sso will start logins at identity providers, take their callbacks and
// give back an identity with attributes; nothing of it exists yet. Its parts
// github, oidc and saml will each speak one protocol; what a user may do with that
// identity will be decided by internal/auth, never here.
//
// An attacker controls what the browser brings back: forged, replayed, foreign
// and half-signed answers, redirects to other hosts, logins started for someone
// else. Every answer will be tied to the login that asked for it, and to one use.
package sso
