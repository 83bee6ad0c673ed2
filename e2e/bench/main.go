// Command bench is `make bench`: the figures of docs/benchmarks.md, each a
// ratio to a reference that is measured in the same run on the same machine.
// Beside three replicas it runs the real kube-apiserver, haproxy and nginx with
// mutual TLS and an injected identity, and three etcd members on the same disk.
//
//	bench [-only latency,throughput,watch,writes,failover,kubectl] [-short]
//
// It needs Debian's haproxy and nginx-light, which it installs as root.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func main() {
	only := flag.String("only", "", "comma-separated `parts`: latency, throughput, watch, writes, failover, kubectl")
	short := flag.Bool("short", false, "a tenth of the samples: to try the program, not for figures")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *only, *short, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench holds what the parts share: who is measured, and the rows so far.
type bench struct {
	*environment
	short bool
	rows  []row
}

// n is a number of samples, or a tenth of it.
func (b *bench) n(full int) int {
	if b.short {
		return max(1, full/10)
	}
	return full
}

func run(ctx context.Context, only string, short bool, w io.Writer) error {
	start := time.Now()
	step := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%5.0f s] %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
	step("Building (once) and starting kube-apiserver, haproxy, nginx and three replicas; the whole takes about 8 min")
	if err := testbed.Build(ctx, os.Stderr, testbed.Hyper, testbed.Etcd, "bench-packages"); err != nil {
		return err
	}
	env, err := newEnvironment(ctx)
	if err != nil {
		return err
	}
	defer env.close()
	b := &bench{environment: env, short: short}
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"latency", b.latency},
		{"throughput", b.throughput},
		{"watch", b.watches},
		{"kubectl", b.kubectl},
		{"writes", b.writes},
		{"failover", b.failover},
	} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		step("%s", part.name)
		if err := part.run(ctx); err != nil {
			return fmt.Errorf("%s: %w\n%s", part.name, err, env.cluster.Logs(10))
		}
	}
	step("done")
	fmt.Fprintf(w, "Measured %s on %d cores (%s, %s) by `make bench`, everything on that one machine.\n\n",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	return writeTable(w, b.rows)
}
