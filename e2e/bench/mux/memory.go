package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// beAgents is the process of the agents, so that the other has the replica's
// memory alone. It ends with its standard input.
func beAgents(address, name string, n int) error {
	for _, c := range candidates() {
		if c.name != name {
			continue
		}
		for range n {
			conn, err := tls.Dial("tcp", address, clientTLS())
			if err != nil {
				return err
			}
			if c.name == "raw" {
				go http.Serve(&one{conn: conn}, &handler{})
			} else {
				go c.agent(conn, &handler{})
			}
		}
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// one is a listener that accepts one connection.
type one struct{ conn net.Conn }

func (o *one) Accept() (net.Conn, error) {
	if o.conn == nil {
		select {}
	}
	c := o.conn
	o.conn = nil
	return c, nil
}
func (o *one) Addr() net.Addr { return nil }
func (o *one) Close() error   { return nil }

// memory is measured in a process that has done nothing else.
func memory(c candidate, f figures, idle int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	replica := exec.Command(self, "-replica", "-only", c.name, "-sessions", strconv.Itoa(idle))
	replica.Stderr = os.Stderr
	out, err := replica.Output()
	if err != nil {
		return err
	}
	var heap, rss float64
	if _, err := fmt.Sscan(string(out), &heap, &rss); err != nil {
		return err
	}
	f.add("heap KiB", heap)
	f.add("rss KiB", rss)
	return nil
}

func beReplica(name string, n int) error {
	all := candidates()
	c := all[slices.IndexFunc(all, func(c candidate) bool { return c.name == name })]
	ln, err := listen()
	if err != nil {
		return err
	}
	defer ln.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	agents := exec.Command(self, "-agents", ln.Addr().String(), "-only", c.name, "-sessions", strconv.Itoa(n))
	agents.Stderr = os.Stderr
	stdin, err := agents.StdinPipe()
	if err != nil {
		return err
	}
	heap, rss := used()
	if err := agents.Start(); err != nil {
		return err
	}
	defer func() {
		stdin.Close()
		agents.Wait()
	}()
	kept := make([]any, 0, 2*n)
	for range n {
		conn, err := accept(ln)
		if err != nil {
			return err
		}
		defer conn.Close()
		var rt http.RoundTripper
		if c.name == "raw" { // a connection with its HTTP client, for comparison
			rt = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		} else if rt, _, err = c.replica(conn); err != nil {
			return err
		}
		if err := fetch(context.Background(), rt, 1<<10); err != nil {
			return err
		}
		if t, ok := rt.(*http.Transport); ok && c.name != "raw" {
			t.CloseIdleConnections()
		}
		kept = append(kept, rt, conn)
	}
	time.Sleep(300 * time.Millisecond)
	heapAfter, rssAfter := used()
	fmt.Println(float64(heapAfter-heap)/1024/float64(n), float64(rssAfter-rss)/1024/float64(n))
	runtime.KeepAlive(kept)
	return nil
}

// used is heap and stacks, and what is resident, in bytes.
func used() (heap, rss int64) {
	for range 3 {
		debug.FreeOSMemory()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status")
	for line := range bytes.Lines(status) {
		if v, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			var kib int64
			fmt.Sscan(v, &kib)
			rss = kib << 10
		}
	}
	return int64(m.HeapAlloc + m.StackInuse), rss
}
