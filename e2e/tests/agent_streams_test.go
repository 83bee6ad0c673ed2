package tests

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// upgrades is how many streams TestManyPortForwards opens; make soak wants more.
var upgrades = flag.Int("upgrades", 400, "port-forwards to open and close")

// Somebody opens kubectl logs -f in a terminal and goes home, several times over,
// so that each tunnel carries streams that nobody reads. The others go on.
func TestLogsThatNobodyReads(t *testing.T) {
	e := agents(t)
	ctx := within(t, time.Minute)
	fillLog(t, e.cookie, 24<<20)
	_, without := e.tunnels(t, e.agent, 10*time.Second)
	r := without[0] // all goes over links between replicas, too
	c := e.through(t, r, "h2")
	measure := func(n int) (median, worst time.Duration) {
		t.Helper()
		var took []time.Duration
		for range n {
			start := time.Now()
			if err := c.pods(ctx); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		return took[n/2], took[n-1]
	}
	measure(10)
	before, worstBefore := measure(100)
	const unread = 12
	for range unread {
		e.followUnread(ctx, t, r)
	}
	filling, worstFilling := measure(50) // until what lies on the way is full, much is sent
	after, worst := measure(100)
	t.Logf("a GET takes %.1f ms (worst %.1f), while %d logs that nobody reads begin %.1f ms (worst %.1f), and beside them %.1f ms (worst %.1f)",
		ms(before), ms(worstBefore), unread, ms(filling), ms(worstFilling), ms(after), ms(worst))
	if after > 3*before+100*time.Millisecond || worst > patient(t, 2*time.Second) {
		t.Error("it holds the others up")
	}
	// Much at once goes through as well.
	start := time.Now()
	b, err := e.through(t, r, "http/1.1").get(ctx, "/api/v1/namespaces/default/pods/crumb/log")
	if err != nil || len(b) < 20<<20 {
		t.Errorf("the whole log: %d bytes, %v", len(b), err)
	}
	t.Logf("%d MB of log in %.1f s", len(b)>>20, time.Since(start).Seconds())
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// fillLog gives the pods of a control plane much to have said, until the test ends.
func fillLog(t *testing.T, cp *testbed.ControlPlane, size int) {
	t.Helper()
	file := filepath.Join(cp.Dir, "pod.log")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, before, 0o600); err != nil {
			t.Error(err)
		}
	})
	line := "2026-01-01T00:00:00.000000000Z stdout F " + strings.Repeat("a long line of a pod's log ", 40) + "\n"
	if err := os.WriteFile(file, []byte(strings.Repeat(line, size/len(line))), 0o600); err != nil {
		t.Fatal(err)
	}
}

// followUnread asks for a log that has no end, and reads no more than the answer's head.
func (e *agentsEnvironment) followUnread(ctx context.Context, t *testing.T, r *sallyport.Replica) {
	t.Helper()
	conn, err := e.through(t, r, "http/1.1").dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET /api/v1/namespaces/default/pods/crumb/log?follow=true HTTP/1.1\r\nHost: %s\r\n\r\n", r.WebAddr()); err != nil {
		t.Fatal(err)
	}
	status, err := bufio.NewReaderSize(conn, 256).ReadString('\n')
	if err != nil || !strings.Contains(status, "200") {
		t.Fatalf("logs -f: %q, %v", status, err)
	}
}

// Reliability 20: port-forwards that are opened and closed, or whose owner's
// laptop goes to sleep, leave nothing behind.
func TestManyPortForwards(t *testing.T) {
	e := agents(t)
	ctx := within(t, 20*time.Minute)
	var clients []*through
	for _, r := range e.cluster.Replicas {
		clients = append(clients, e.through(t, r, "http/1.1"))
	}
	open := func(i int) error { return portForwardOnce(ctx, clients[i%3], i%2 == 0, i%4 >= 2) }
	for i := range 24 { // what is made once is made before
		if err := open(i); err != nil {
			t.Fatal(err)
		}
	}
	before := e.settled(t, nil)
	start := time.Now()
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range 8 {
		wg.Go(func() {
			for i := range next {
				if err := open(i); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%d: %w", i, err))
					mu.Unlock()
				}
			}
		})
	}
	for i := range *upgrades {
		next <- i
	}
	close(next)
	wg.Wait()
	if len(errs) > 0 {
		t.Errorf("%d of %d failed: %v", len(errs), *upgrades, errors.Join(errs[:min(5, len(errs))]...))
	}
	took := time.Since(start)
	after := e.settled(t, before)
	t.Logf("%d port-forwards in %.1f s", *upgrades, took.Seconds())
	for who, b := range before {
		t.Logf("%-6s file descriptors %d, then %d; goroutines %d, then %d", who, b.fds, after[who].fds, b.goroutines, after[who].goroutines)
	}
}

// portForwardOnce opens a port-forward by one of kubectl's two protocols and ends it, politely or as a power cut does.
func portForwardOnce(ctx context.Context, c *through, webSocket, abrupt bool) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	head := "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n"
	method := "POST"
	if webSocket {
		head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n"
		method = "GET"
	}
	if _, err := fmt.Fprintf(conn, "%s /api/v1/namespaces/default/pods/crumb/portforward HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, strings.TrimPrefix(c.url, "https://"), head); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("%s: %s, %w", resp.Status, b, err)
	}
	if abrupt {
		if tcp, ok := conn.NetConn().(*net.TCPConn); ok {
			return errors.Join(tcp.SetLinger(0), tcp.Close())
		}
	}
	return nil
}

// held is what a process holds.
type held struct{ fds, goroutines int }

// leeway is by how much that may differ from before: connections that are kept come and go.
const leeway = 5

// settled is what replicas and agent hold once it is no more than before; nil: once it has not changed for a second.
func (e *agentsEnvironment) settled(t *testing.T, before map[string]held) map[string]held {
	t.Helper()
	ctx := within(t, time.Minute)
	var last map[string]held
	since := time.Now()
	testbed.Wait(t, 45*time.Second, "rest in replicas and agent", func() error {
		now := map[string]held{}
		for _, r := range e.cluster.Replicas {
			var metrics strings.Builder
			if err := r.Diag(ctx, "/metrics", &metrics); err != nil {
				return err
			}
			now[r.Name] = holds(t, r.Process().PID(), metrics.String())
		}
		var metrics strings.Builder
		if err := e.agent.Diag(ctx, "/metrics", &metrics); err != nil {
			return err
		}
		now["agent"] = holds(t, e.agent.Process().PID(), metrics.String())
		was := last
		last = now
		if before == nil {
			for who, h := range now {
				if w := was[who]; abs(h.fds-w.fds) > 1 || abs(h.goroutines-w.goroutines) > 3 {
					since = time.Now()
				}
			}
			if time.Since(since) < time.Second {
				return fmt.Errorf("it moves: %v, then %v", was, now)
			}
			return nil
		}
		for who, b := range before {
			if now[who].fds > b.fds+leeway || now[who].goroutines > b.goroutines+leeway {
				return fmt.Errorf("%s holds %+v, before %+v", who, now[who], b)
			}
		}
		return nil
	})
	return last
}

func abs(n int) int { return max(n, -n) }

var goroutines = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

func holds(t *testing.T, pid int, metrics string) held {
	t.Helper()
	m := goroutines.FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("no go_goroutines in /metrics of %d", pid)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return held{len(fds), n}
}
