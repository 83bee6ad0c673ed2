// Package testbed builds and runs what Sallyport is tested against: a real
// Kubernetes control plane on loopback (etcd, kube-apiserver, controllers,
// scheduler; made-up nodes by kwok), several at once, without root. The
// scripts beside it run real clusters; they call cmd/testbed for the control
// plane, so its flags and certificates are written down once, here.
//
// A process started here dies with the process that started it (on Linux even
// after kill -9), is signalled by its own PID only, and leaves its log in the
// control plane's directory until that is removed.
package testbed
