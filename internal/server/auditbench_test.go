package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/testport"
)

// What the audit log costs a cluster of three processes with disks of their own
// (docs/adr/052). A replica is this test binary, started again with the
// environment below; it records events as its proxy would.

const (
	benchReplicaEnv = "SALLYPORT_BENCH_REPLICA"
	auditRate       = 5000 // events per second, of all three together
)

// benchReplica says what a process is to be.
type benchReplica struct {
	DataDir string
	Secret  []byte
	Public  string
	Kube    string
	Peer    string
	Gossip  string
	Diag    string
	Join    []string
	LogFile string
}

// benchOrder is a line on its standard input; a benchReport answers each.
type benchOrder struct {
	Rate int // events per second from now on
}

type benchReport struct {
	Leads     bool
	CPU       time.Duration // of the process since its start
	Recorded  uint64
	Sent      uint64
	Lost      uint64
	Retries   uint64
	Waiting   int64 // events
	Spooled   int64 // bytes
	Last      uint64
	Complete  bool // the journal has no gap
	Snapshots float64
	RSS       int64
}

// runBenchReplica is the main function of such a process.
func runBenchReplica(doc string) error {
	var is benchReplica
	if err := json.Unmarshal([]byte(doc), &is); err != nil {
		return err
	}
	logFile, err := os.OpenFile(is.LogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	s, err := New(Options{
		ClusterName: testCluster, DataDir: is.DataDir, Secret: is.Secret, PublicAddr: is.Public, ListenAddr: is.Public,
		KubeListenAddr: is.Kube, PeerAddr: is.Peer, GossipAddr: is.Gossip, DiagAddr: is.Diag, BootstrapExpect: len(is.Join), Join: is.Join,
		Logger: slog.New(slog.NewTextHandler(logFile, nil)),
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var work sync.WaitGroup
	rates := make(chan int)
	work.Go(func() { s.recordAt(ctx, rates) })
	work.Go(func() {
		defer stop() // whoever gave orders is gone
		orders, reports := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
		for {
			var o benchOrder
			if orders.Decode(&o) != nil {
				return
			}
			select {
			case rates <- o.Rate:
			case <-ctx.Done():
				return
			}
			if reports.Encode(s.benchReport()) != nil {
				return
			}
		}
	})
	err = s.Run(ctx)
	stop()
	_ = os.Stdin.Close()
	work.Wait()
	return err
}

// recordAt records requests' events, evenly, at the rate it was told last.
func (s *Server) recordAt(ctx context.Context, rates <-chan int) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	rate, since, done := 0, time.Now(), 0
	event := newBenchEvents(s.node.ID())
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-rates:
			if r != rate {
				rate, since, done = r, time.Now(), 0
			}
		case <-tick.C:
			for due := int(time.Since(since).Seconds() * float64(rate)); done < due; done++ {
				s.events.Record(event())
			}
		}
	}
}

// newBenchEvents makes events such as a cluster with many clients has: 900 bytes
// as a line, and as varied as theirs.
func newBenchEvents(server string) func() api.Event {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // no secret
	base := map[string]any{
		"proto": "kube", "namespace": "default", "server_id": server, "kubernetes_cluster": "production-eu-central",
		"kubernetes_groups": []string{"developers", "readers", "system:authenticated"},
		"kubernetes_labels": map[string]string{"env": "production", "region": "eu-central-1"},
	}
	users := make([]string, 40)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d@example.com", i)
	}
	return func() api.Event {
		fields := maps.Clone(base)
		user := users[r.IntN(len(users))]
		name := fmt.Sprintf("checkout-%x-%x", r.Uint32(), r.Uint32()&0xfffff)
		fields["session_id"] = fmt.Sprintf("%016x%016x", r.Uint64()&0xff, r.Uint64()&0xff)
		fields["kubernetes_users"] = []string{user}
		fields["addr.remote"] = fmt.Sprintf("10.1.%d.%d:%d", r.IntN(8), r.IntN(256), 32768+r.IntN(28000))
		fields["addr.local"] = "10.2.0.1:3026"
		fields["request_path"] = "/api/v1/namespaces/checkout/pods/" + name
		fields["verb"], fields["kubernetes_verb"] = http.MethodGet, "get"
		fields["response_code"] = http.StatusOK
		fields["resource_api_group"], fields["resource_kind"] = "core/v1", "pods"
		fields["resource_namespace"], fields["resource_name"] = "checkout", name
		return api.Event{Event: api.EventKubeRequest, Code: api.EventCodeKubeRequest, User: user, Fields: fields}
	}
}

func (s *Server) benchReport() benchReport {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	events, journal := s.events.Stats(), s.journal.State()
	out := benchReport{
		Leads: s.node.Status().State == "leader", CPU: time.Duration(usage.Utime.Nano() + usage.Stime.Nano()),
		Recorded: events.Recorded, Sent: events.Sent, Lost: events.Lost, Retries: events.Retries, Waiting: events.Queued + events.SpoolEvents,
		Spooled: events.SpoolBytes, Last: journal.Last, Complete: journal.Gap == nil && journal.PendingBytes == 0, RSS: usage.Maxrss,
	}
	families, err := s.metrics.Gather()
	if err != nil {
		return out
	}
	for _, f := range families {
		if strings.HasSuffix(f.GetName(), "_snapshots_total") {
			out.Snapshots = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return out
}

// benchCluster is three such processes.
type benchCluster struct {
	b        *testing.B
	replicas []*benchProcess
}

type benchProcess struct {
	is      benchReplica
	cmd     *exec.Cmd
	orders  *json.Encoder
	reports *json.Decoder
	stdin   io.Closer
	admin   *http.Client
}

func startBenchCluster(b *testing.B) *benchCluster {
	b.Helper()
	c := &benchCluster{b: b}
	secret, dir := GenerateSecret(), b.TempDir()
	ports := testport.Reserve(b, 15)
	addr := func(i, k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[5*i+k]) }
	var join []string
	for i := range 3 {
		join = append(join, addr(i, 3))
	}
	for i := range 3 {
		p := &benchProcess{is: benchReplica{
			DataDir: filepath.Join(dir, fmt.Sprint(i)), LogFile: filepath.Join(dir, fmt.Sprintf("%d.log", i)), Secret: secret,
			Public: addr(i, 0), Kube: addr(i, 1), Peer: addr(i, 2), Gossip: addr(i, 3), Diag: addr(i, 4), Join: join,
		}}
		c.replicas = append(c.replicas, p)
		c.start(p)
	}
	b.Cleanup(func() {
		for _, p := range c.replicas {
			_ = p.stdin.Close()
		}
		for _, p := range c.replicas {
			_ = p.cmd.Wait()
		}
	})
	for _, p := range c.replicas {
		c.awaitReady(p)
	}
	return c
}

func (c *benchCluster) start(p *benchProcess) {
	c.b.Helper()
	doc, err := json.Marshal(p.is)
	if err != nil {
		c.b.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0]) //nolint:gosec,noctx // this binary; ended by the end of its standard input
	p.cmd.Env = append(os.Environ(), benchReplicaEnv+"="+string(doc))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		c.b.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		c.b.Fatal(err)
	}
	p.stdin, p.orders, p.reports = in, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	p.admin = benchAdmin(filepath.Join(p.is.DataDir, "admin.sock"))
	if err := p.cmd.Start(); err != nil {
		c.b.Fatal(err)
	}
}

func (c *benchCluster) awaitReady(p *benchProcess) {
	c.b.Helper()
	c.await("a replica is ready", func() error {
		resp, err := http.Get("http://" + p.is.Diag + "/readyz") //nolint:noctx // bounded by await
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

func (c *benchCluster) await(what string, ok func() error) {
	c.b.Helper()
	var err error
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	c.b.Fatalf("%s: %v", what, err)
}

func (c *benchCluster) order(p *benchProcess, rate int) benchReport {
	c.b.Helper()
	var r benchReport
	if err := errors.Join(p.orders.Encode(benchOrder{rate}), p.reports.Decode(&r)); err != nil {
		c.b.Fatalf("a replica has gone: %v", err)
	}
	return r
}

// load lets the replicas record so many events a second together.
func (c *benchCluster) load(rate int) []benchReport {
	c.b.Helper()
	var out []benchReport
	for i, p := range c.replicas {
		out = append(out, c.order(p, rate/3+min(1, rate%3/(i+1))))
	}
	return out
}

// settle stops the load and waits until every event is in every journal.
func (c *benchCluster) settle() []benchReport {
	c.b.Helper()
	var out []benchReport
	c.await("every event is in every journal", func() error {
		out = c.load(0)
		for _, r := range out {
			if r.Waiting > 0 || r.Sent < r.Recorded || r.Last != out[0].Last || !r.Complete {
				return fmt.Errorf("%+v", out)
			}
		}
		return nil
	})
	return out
}

// checkJournals says how many events the logs hold, which must be the same.
func (c *benchCluster) checkJournals() {
	c.b.Helper()
	reports := c.settle()
	var sums []string
	for i, p := range c.replicas {
		files, err := filepath.Glob(filepath.Join(p.is.DataDir, "log", "events*.log"))
		if err != nil {
			c.b.Fatal(err)
		}
		slices.Sort(files)
		h := sha256.New()
		for _, name := range files {
			f, err := os.Open(name) //nolint:gosec // of ours
			if err == nil {
				_, err = io.Copy(h, f)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				c.b.Fatal(err)
			}
		}
		sums = append(sums, fmt.Sprintf("%d files %x", len(files), h.Sum(nil)[:8]))
		if sums[i] != sums[0] || reports[i].Lost > 0 {
			c.b.Errorf("replica %d: %s, lost %d; replica 0: %s", i, sums[i], reports[i].Lost, sums[0])
		}
	}
	c.b.Logf("%d lines, the same on all three (%s)", reports[0].Last, sums[0])
}

// carried is what became of events between two reports of all.
func carried(before, after []benchReport, d time.Duration) (recorded, lines, cores float64) {
	for i := range before {
		recorded += float64(after[i].Recorded - before[i].Recorded)
		cores += float64(after[i].CPU - before[i].CPU)
	}
	lines = float64(after[0].Last - before[0].Last)
	return recorded / d.Seconds(), lines / d.Seconds(), cores / float64(d)
}

// benchAdmin keeps as many connections as there are writers.
func benchAdmin(socket string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	t := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}
	return &http.Client{Transport: t, Timeout: 10 * time.Second}
}

func putBenchRole(ctx context.Context, c *http.Client, name string) error {
	doc := fmt.Sprintf(`{"kind":"role","version":"v5","metadata":{"name":%q,"description":%q},"spec":{"allow":{"kubernetes_groups":["developers","readers"]}}}`,
		name, strings.Repeat("x", 150))
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://sallyport"+api.PathResources+"?force=true", bytes.NewBufferString(doc))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusMultipleChoices {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return err
}

// write puts roles through all three replicas for a while.
func (c *benchCluster) write(writers int, d time.Duration) (took []time.Duration, perSecond float64) {
	c.b.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	start := time.Now()
	for i := range writers {
		all.Go(func() {
			var mine []time.Duration
			for time.Since(start) < d {
				began := time.Now()
				if err := putBenchRole(c.b.Context(), c.replicas[(i+len(mine))%3].admin, fmt.Sprintf("bench-%d", i)); err != nil {
					c.b.Error(err)
					return
				}
				mine = append(mine, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	all.Wait()
	slices.Sort(took)
	return took, float64(len(took)) / time.Since(start).Seconds()
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

// BenchmarkStateWritesUnderAuditLoad: how much slower a role is written while the
// replicas record 5,000 events a second together. An iteration is a turn of three
// seconds without them and one with them: -benchtime 8x.
func BenchmarkStateWritesUnderAuditLoad(b *testing.B) {
	const turn = 3 * time.Second
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c := startBenchCluster(b)
			c.write(writers, time.Second) // warm up
			type figures struct{ p50, p99, rate, cores []float64 }
			var without, with figures
			var recorded, lines []float64
			for b.Loop() {
				for _, f := range []struct {
					rate int
					to   *figures
				}{{0, &without}, {auditRate, &with}} {
					c.settle()
					c.load(f.rate)
					<-time.After(300 * time.Millisecond)
					before, start := c.load(f.rate), time.Now()
					took, rate := c.write(writers, turn)
					after, d := c.load(f.rate), time.Since(start)
					f.to.p50 = append(f.to.p50, quantile(took, 0.5).Seconds()*1000)
					f.to.p99 = append(f.to.p99, quantile(took, 0.99).Seconds()*1000)
					f.to.rate = append(f.to.rate, rate)
					r, l, cores := carried(before, after, d)
					f.to.cores = append(f.to.cores, cores)
					if f.rate > 0 {
						recorded, lines = append(recorded, r), append(lines, l)
					}
				}
			}
			c.checkJournals()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(middle(without.p50), "ms-p50-without")
			b.ReportMetric(middle(with.p50), "ms-p50-with")
			b.ReportMetric(middle(with.p50)/middle(without.p50), "x-p50")
			b.ReportMetric(middle(without.p99), "ms-p99-without")
			b.ReportMetric(middle(with.p99), "ms-p99-with")
			b.ReportMetric(middle(with.p99)/middle(without.p99), "x-p99")
			b.ReportMetric(middle(without.rate), "writes/s-without")
			b.ReportMetric(middle(with.rate), "writes/s-with")
			b.ReportMetric(middle(without.rate)/middle(with.rate), "x-rate")
			b.ReportMetric(middle(recorded), "events/s")
			b.ReportMetric(middle(lines), "lines/s")
			b.ReportMetric(middle(without.cores), "cores-without")
			b.ReportMetric(middle(with.cores), "cores-with")
		})
	}
}

// BenchmarkAuditLoad: what 5,000 events a second cost by themselves, and how
// large Raft's log becomes. An iteration is a second: -benchtime 180x.
func BenchmarkAuditLoad(b *testing.B) {
	c := startBenchCluster(b)
	c.settle()
	raftLog := func() (largest int64) {
		for _, p := range c.replicas {
			if info, err := os.Stat(filepath.Join(p.is.DataDir, "raft.db")); err == nil {
				largest = max(largest, info.Size())
			}
		}
		return largest >> 20
	}
	idle, start := c.load(0), time.Now()
	<-time.After(2 * time.Second)
	_, _, idleCores := carried(idle, c.load(0), time.Since(start))
	before, start, seconds := c.load(auditRate), time.Now(), 0
	for b.Loop() {
		seconds++
		<-time.After(time.Until(start.Add(time.Duration(seconds) * time.Second)))
		if seconds%15 == 0 {
			r := c.load(auditRate)
			b.Logf("%3d s: %d lines, raft.db %d MiB, %.0f snapshots, %d events wait, %d MiB resident at most",
				seconds, r[0].Last, raftLog(), r[0].Snapshots, r[0].Waiting+r[1].Waiting+r[2].Waiting, max(r[0].RSS, r[1].RSS, r[2].RSS)>>10)
		}
	}
	after, d := c.load(auditRate), time.Since(start)
	recorded, lines, cores := carried(before, after, d)
	c.checkJournals()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(recorded, "events/s")
	b.ReportMetric(lines, "lines/s")
	b.ReportMetric(idleCores, "cores-idle")
	b.ReportMetric(cores, "cores")
	b.ReportMetric(float64(raftLog()), "MiB-raft.db")
}

// BenchmarkWipedReplica: how long a replica whose disk was emptied takes until it
// has the audit log of the others again. An iteration adds 16 MiB to it first: -benchtime 4x.
func BenchmarkWipedReplica(b *testing.B) {
	c := startBenchCluster(b)
	c.settle()
	for b.Loop() {
		target := c.load(3 * auditRate)[0].Last + 16<<20/900
		c.await("16 MiB more", func() error {
			if r := c.load(3 * auditRate); r[0].Last < target {
				return fmt.Errorf("%d lines of %d", r[0].Last, target)
			}
			return nil
		})
	}
	was := c.settle()
	p := c.replicas[0]
	for i, r := range was {
		if !r.Leads {
			p = c.replicas[i]
		}
	}
	var size int64
	files, _ := filepath.Glob(filepath.Join(p.is.DataDir, "log", "events*.log"))
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			size += info.Size()
		}
	}
	_ = p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := os.RemoveAll(p.is.DataDir); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	c.start(p)
	c.awaitReady(p)
	ready := time.Since(start)
	c.await("the whole log is back", func() error {
		if r := c.order(p, 0); r.Last < was[0].Last || !r.Complete {
			return fmt.Errorf("%d of %d lines", r.Last, was[0].Last)
		}
		return nil
	})
	took := time.Since(start)
	c.checkJournals()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(size)/(1<<20), "MiB")
	b.ReportMetric(ready.Seconds(), "s-ready")
	b.ReportMetric(took.Seconds(), "s-all")
}
