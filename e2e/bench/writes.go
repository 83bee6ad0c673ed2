package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
)

// attempt is how long one try of a write may take before the next is made.
const attempt = 3 * time.Second

// roleDocument is what a write writes: as many bytes as etcd gets.
func roleDocument(name string) string {
	b, err := json.Marshal(map[string]any{
		"kind": "role", "version": "v5", "metadata": map[string]any{"name": name, "description": strings.Repeat("x", 150)},
		"spec": map[string]any{"allow": map[string]any{"kubernetes_groups": []string{"developers", "readers"}}},
	})
	if err != nil {
		panic(err) // strings and maps
	}
	return string(b)
}

// putRole writes a role through a replica's socket.
func putRole(ctx context.Context, client *http.Client, name string) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://sallyport/v1/resources?force=true", bytes.NewBufferString(roleDocument(name)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("write: %s: %s", resp.Status, b)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// socketClient keeps as many connections as there are writers.
func socketClient(r *sallyport.Replica, writers int) *http.Client {
	c := r.SocketClient()
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = writers
	return c
}

// writes is metric 9: durable writes by three replicas and three etcd members on one disk, spread over all three.
func (b *bench) writes(ctx context.Context) error {
	reference, err := startEtcd(ctx, filepath.Join(b.dir))
	if err != nil {
		return err
	}
	defer reference.stop()
	d := time.Duration(b.n(3000)) * time.Millisecond
	for _, w := range []struct {
		writers int
		limit   float64
	}{{1, 1.0}, {64, 2.0}} {
		var clients []*http.Client
		for _, r := range b.cluster.Replicas {
			client := socketClient(r, w.writers)
			defer client.CloseIdleConnections()
			clients = append(clients, client)
		}
		var ours, theirs []float64
		for turn := range 4 {
			o, err := writeFor(w.writers, d, func(writer int) error {
				return putRole(ctx, clients[writer%len(clients)], fmt.Sprintf("bench-%d", writer))
			})
			if err != nil {
				return err
			}
			t, err := writeFor(w.writers, d, func(writer int) error {
				name := fmt.Sprintf("bench-%d", writer)
				return reference.members[writer%3].put(ctx, name, roleDocument(name))
			})
			if err != nil {
				return err
			}
			if turn > 0 {
				ours, theirs = append(ours, o), append(theirs, t)
			}
		}
		o, t := median(ours), median(theirs)
		b.rows = append(b.rows, atLeast(9, fmt.Sprintf("durable writes/s, %d writers on three nodes / etcd", w.writers), perSecond(o), perSecond(t), o/t, w.limit))
	}
	return nil
}

func writeFor(writers int, d time.Duration, write func(writer int) error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	start := time.Now()
	for i := range writers {
		all.Go(func() {
			for time.Since(start) < d && failed.Load() == nil {
				if err := write(i); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(start).Seconds(), nil
}
