// Package pki holds the certificate authorities: the user CA, which signs
// people's certificates, the host CA, which signs what replicas show on the kube,
// api and tunnel names, and the agent CA, which signs those of agents in Kubernetes
// clusters. It makes them, signs with them, and says whose certificate a verified
// one is.
//
// A certificate's role comes from which CA verified it. Beside that, CA and
// leaf carry the CA's type in a private extension, so that a pool filled with
// the wrong certificates still confuses nobody. A user certificate holds no
// rights: only the user's name and the id of a session, whose record says, at
// every request, whether it lives and what it may. An agent's holds its id and a
// generation, and the record of that id says the rest.
//
// What an attacker might try, and tests try too: a host certificate as a user, or
// a user's as an agent; a CA or a leaf as the issuer of another; two identities in
// one certificate; a certificate of another Sallyport cluster that shares nothing
// but the software; names that read differently once encoded; a signing request
// with a subject or extensions of its own (SignUser and SignAgent take a public key
// and nothing else, so there is nothing to smuggle them in); keys too weak to be
// worth signing.
package pki
