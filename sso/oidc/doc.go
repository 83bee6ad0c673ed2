// Package oidc logs people in by OpenID Connect Core 1.0: the code flow with PKCE
// (RFC 7636), state, nonce and the issuer in the answer (RFC 9207).
//
// github.com/coreos/go-oidc verifies the signature of ID tokens, golang.org/x/oauth2
// exchanges codes. All else about a token is judged here, by
// claims that are read strictly: encoding/json takes "SUB" for "sub" and the last of
// two equal names, so whoever may name a claim of his own at the identity provider
// could otherwise write over the ones that count.
//
// What an attacker might try: a token for another client, of another issuer, of an
// earlier login, unsigned or signed with what is public; a code of another login or
// of another provider (mix-up); an address or text in a claim that a rule or a log
// takes for something else; a provider that hangs, babbles or redirects. Somebody is
// known by issuer and sub alone, never by an e-mail address.
package oidc
