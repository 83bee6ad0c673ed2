package cluster_test

import (
	"flag"
	"os"
	"testing"
)

// Replicas in real time mostly wait: more of them at once than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", "8") // it is a number
	}
	os.Exit(m.Run())
}
