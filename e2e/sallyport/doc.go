// Package sallyport runs the product as its users do: it builds the three
// binaries, starts replicas with data directories and ports of their own on
// loopback, and types command lines at them. Nothing of the product is
// imported; what is not in a binary or its HTTP interface is not there.
//
// Every command gets a home directory, SALLYPORT_HOME and KUBECONFIG of the
// person it stands for, so neither ~/.kube nor ~/.sallyport is ever read or
// written. Replicas die with the test or demo that started them.
package sallyport
