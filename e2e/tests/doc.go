// Package tests types at the product what its users type, and breaks what
// breaks in the field: real replicas, a real Kubernetes API server, kubectl, a
// browser, kill -9, wiped and full disks. Nothing of the product is imported.
//
// Tests that only read share one cluster of three replicas; whoever kills,
// stops or wipes one starts a cluster of their own. All share one Kubernetes.
package tests
