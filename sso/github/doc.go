// Package github logs members of GitHub teams in, by GitHub's web flow of OAuth 2.0
// (RFC 6749) with PKCE (RFC 7636), at github.com and at GitHub Enterprise Server.
//
// Who somebody is, and which organization a team belongs to, are numbers: names are
// given up and taken by others. The access token is asked for once, used for three
// lists, and revoked; it is in no answer, error or log line.
//
// An attacker may bring back a code of somebody else's login, hope that a list of teams
// that broke off halfway is taken for the whole, that a limit or an error of GitHub's
// counts as "in no team that is excluded", or, with an Enterprise Server of a connector
// under control, send pages without end and addresses of other hosts. What is not
// understood to the last byte logs nobody in.
package github
