// Package e2e holds what proves the whole product: the built binaries against
// a real Kubernetes API, a real browser, faults and benchmarks. It is a Go
// module of its own, so that nothing a test needs reaches the product's go.mod.
//
//   - testbed builds and starts real Kubernetes; its scripts start real nodes.
//   - sallyport builds the product and runs replicas and its command lines.
//   - browser drives Chromium; tests is what must hold, end to end.
//   - load runs thousands of agents in one process, rogue is one that keeps no
//     promise. These two alone import the product: its agent, and what it speaks.
//   - cmd/demo is `make demo`, cmd/check is `make test`, bench `make bench`, cmd/agents
//     prints what load measures.
//
// Everything runs on loopback or in network namespaces, processes are ours by
// PID and die with us, and nothing is written outside the cache directory
// (TESTBED_HOME) and temporary directories that are removed at the end.
package e2e
