// Command agents measures replicas under thousands of simulated agents, and
// prints rows for docs/benchmarks.md:
//
//	cd e2e && go run ./cmd/agents -agents=5000
//
// It needs twice as many file descriptors as agents, and says so when there are
// fewer (ulimit -n).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/load"
	"github.com/sallyport-dev/sallyport/e2e/sallyport"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	agents := flag.Uint("agents", 1000, "simulated agents")
	idle := flag.Duration("idle", 20*time.Second, "how long users ask while nothing happens")
	limit := flag.Duration("limit", 10*time.Minute, "for each step")
	flag.Parse()
	err := enoughFiles(2*uint64(*agents) + 1000)
	if err == nil {
		err = run(ctx, int(*agents), *idle, *limit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agents:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, agents int, idle, limit time.Duration) error {
	bin, err := sallyport.Build(ctx)
	if err != nil {
		return err
	}
	got, err := load.Run(ctx, load.Options{Bin: bin, Agents: agents, Idle: idle, Limit: limit, Logf: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}})
	if err != nil {
		return err
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
	fmt.Printf("| %d agents, three replicas | |\n|---|---|\n", got.Agents)
	fmt.Printf("| all joined, two tunnels each, after | %.1f s |\n", got.Joined.Seconds())
	fmt.Printf("| memory per idle agent, all replicas together (per tunnel) | %.0f KiB (%.0f KiB) |\n", got.MemoryKiB, got.TunnelKiB)
	fmt.Printf("| a replica killed: 99 %% back on two after, and all after | %.1f s, %.1f s |\n", got.Most.Seconds(), got.Back.Seconds())
	fmt.Printf("| GETs through the survivors meanwhile that failed | %d of %d |\n", got.Lost.Failed, got.Lost.N)
	fmt.Printf("| p50, p99 (worst) of a GET, idle | %s, %s (%s) |\n", ms(got.Idle.P50), ms(got.Idle.P99), ms(got.Idle.Worst))
	fmt.Printf("| the same while they come back | %s, %s (%s) |\n", ms(got.Lost.P50), ms(got.Lost.P99), ms(got.Lost.Worst))
	return errors.Join(append(got.Idle.Errs, got.Lost.Errs...)...)
}

// enoughFiles says when fewer files may be open than are needed. (Go raises the
// soft limit to the hard one by itself, here and in the replicas.)
func enoughFiles(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Max < need {
		return fmt.Errorf("%d open files are needed and %d allowed: ulimit -n %d", need, limit.Max, need)
	}
	return nil
}
