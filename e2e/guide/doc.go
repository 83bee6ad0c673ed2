// Package guide runs docs/guide.md, word for word, on real Kubernetes clusters: tele with
// three nodes and cookie with one, an ACME authority, GitHub and a SAML identity provider
// beside them, and Chromium. It needs Linux and root, takes some minutes and is a part of
// its own of `make test` (e2e-cluster).
//
// The first test that needs the clusters starts them and runs the page, once; tests of
// faults go on with what it has left (see fixture).
package guide
