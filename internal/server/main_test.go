package server

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// Replicas in real time mostly wait: more of them at once than there are cores.
func TestMain(m *testing.M) {
	if doc := os.Getenv(benchReplicaEnv); doc != "" { // of a benchmark, see auditbench_test.go
		if err := runBenchReplica(doc); err != nil {
			fmt.Fprintln(os.Stderr, "replica:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "4") // it is a number
	}
	os.Exit(m.Run())
}
