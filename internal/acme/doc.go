// Package acme gets the public certificate of the cluster's name from an ACME authority
// (RFC 8555), for all replicas together and with nothing beside them: CertMagic in each
// of them, its storage and its locks in the replicated store. So there is one account,
// one order and one certificate, and any replica answers any challenge.
//
// Nothing is ordered before somebody asks for the name by TLS and the name leads to this
// cluster: its address is the load balancer's, which exists only after the installation.
package acme
