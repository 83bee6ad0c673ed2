// Package tests types at the product what its users type, and breaks what
// breaks in the field: real replicas, a real Kubernetes API server, kubectl, a
// browser, kill -9, wiped and full disks. Nothing of the product is imported.
//
// Tests that only read share one cluster of three replicas; whoever kills,
// stops or wipes one starts a cluster of their own. All share one Kubernetes.
//
// Of those with a cluster of their own, the ones that mostly wait (for elections,
// leases, time-outs) are parallel: they run after all others, a few at a time. They
// bound no time from above but by what a busy machine has, too, and share nothing
// that can be changed but names in Kubernetes, which are theirs alone.
package tests
