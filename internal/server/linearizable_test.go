package server

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/sallyport-dev/sallyport/cluster"
	"github.com/sallyport-dev/sallyport/cluster/clustertest"
	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit"
)

// The histories here are of the real store over the real cluster code and the
// real hashicorp/raft; only network and disk are replaced. Porcupine says
// whether a history can be explained by one register per key that is read and
// compared-and-swapped at single points in time.

func TestTransactionsAndReadsAreLinearizable(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := runHistory(t, seed, scenario{})
				if h.oks < 100 || h.conflicts < 10 {
					t.Fatalf("a history of %d successes and %d conflicts says little", h.oks, h.conflicts)
				}
				if got := h.check(); got != porcupine.Ok {
					t.Fatalf("history of %d operations: %s", len(h.ops), got)
				}
			})
		})
	}
}

// What the test above holds must break when the thing that holds it is taken
// out; otherwise it holds nothing.
func TestLinearizabilityTestNotices(t *testing.T) {
	for name, s := range map[string]scenario{
		"no revision check": {noChecks: true},
		// A new leader that does not know yet what the old one acknowledged last.
		"no barrier before a read index": {faults: clustertest.Faults{NoBarrier: true}, latency: 40 * time.Millisecond, crashLeaders: true},
		// A leader that is deposed between the two steps.
		"leadership verified before the commit index is noted": {faults: clustertest.Faults{VerifyFirst: true}, slowReads: true},
	} {
		t.Run(name, func(t *testing.T) {
			const tries = 40
			for seed := range uint64(tries) {
				noticed := false
				synctest.Test(t, func(t *testing.T) { noticed = runHistory(t, seed, s).check() == porcupine.Illegal })
				if noticed {
					return
				}
			}
			t.Fatalf("not noticed in %d histories", tries)
		})
	}
	t.Run("but not slow reads alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if got := runHistory(t, 1, scenario{slowReads: true}).check(); got != porcupine.Ok {
				t.Fatal(got)
			}
		})
	})
}

type scenario struct {
	faults       clustertest.Faults
	noChecks     bool          // transactions lose their checks on the way to the store
	slowReads    bool          // now and then a leader stops, and is deposed, in the middle of a read index
	crashLeaders bool          // nothing else breaks
	latency      time.Duration // of the network, one way; 5 ms
}

const (
	histNodes   = 3
	histClients = 6
	histKeys    = 2
	histRounds  = 10 // faults, one after the other
)

type registerOp struct {
	read          bool
	key           int
	expect, value string
}

type registerResult struct {
	ok, unknown bool
	value       string
}

type history struct {
	mu             sync.Mutex
	clock          atomic.Int64 // orders calls and returns; virtual time has ties
	ops            []porcupine.Operation
	oks, conflicts int
}

// runHistory lets clients work while faults come and go.
func runHistory(t *testing.T, seed uint64, s scenario) *history {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a repeatable choice is the point
	var c *clustertest.Cluster
	var calm atomic.Bool // no more faults: two of them at once are the end of the quorum
	if s.slowReads {
		var reads atomic.Uint64
		s.faults.Pause = func(ctx context.Context) {
			if reads.Add(1)%8 == 0 && !calm.Load() {
				deposeUnnoticed(ctx, c)
			}
		}
	}
	c = clustertest.New(t, clustertest.Options{
		Nodes: histNodes, Faults: s.faults, Latency: cmp.Or(s.latency, 5*time.Millisecond),
		NewSM: func(int) cluster.StateMachine {
			return registerMachine{stateMachine: stateMachine{Store: fsm.New(fsm.Options{}), journal: noJournal{}}, noChecks: s.noChecks}
		},
		EncodeEntry: fsm.EncodeEntry,
	})
	defer c.Close()
	c.Leader(time.Minute)

	h := &history{}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for id := range histClients {
		own := rand.New(rand.NewPCG(seed, uint64(100+id))) //nolint:gosec // as above
		clients.Go(func() { h.client(ctx, c, id, own) })
	}
	for round := range histRounds {
		sleep(ctx, time.Duration(1+random.IntN(2000))*time.Millisecond)
		switch {
		case s.slowReads:
			sleep(ctx, 3*time.Second)
			calm.Store(round == histRounds-1) // before the last repair: nothing breaks after it
			c.Heal()                          // what the reads have broken
			for i := range histNodes {
				c.MendDisk(i)
			}
		case s.crashLeaders:
			crash(ctx, c, leaderOf(c), time.Second)
		default:
			breakSomething(ctx, c, random)
		}
	}
	c.Leader(time.Minute)
	sleep(ctx, 2*time.Second)
	stop()
	clients.Wait()
	return h
}

// breakSomething is one fault and its end.
func breakSomething(ctx context.Context, c *clustertest.Cluster, random *rand.Rand) {
	victim := random.IntN(histNodes)
	if random.IntN(3) > 0 { // mostly where it hurts
		victim = leaderOf(c)
	}
	pause := time.Duration(500+random.IntN(4000)) * time.Millisecond
	switch random.IntN(4) {
	case 0:
		c.Isolate(victim)
		sleep(ctx, pause)
		c.Heal()
	case 1:
		crash(ctx, c, victim, pause)
	case 2:
		tctx, cancel := context.WithTimeout(ctx, time.Second)
		_ = c.Node(victim).TransferLeadership(tctx) // not the leader, or nobody to take over: no fault this time
		cancel()
	case 3:
		if c.Stop(victim) == nil {
			sleep(ctx, pause)
			c.Start(victim)
		}
	}
}

// leaderOf is the node that takes itself for the leader, or the first.
func leaderOf(c *clustertest.Cluster) int {
	for i := range histNodes {
		if c.Node(i).Status().State == "leader" {
			return i
		}
	}
	return 0
}

// deposeUnnoticed makes another node lead while the leader still takes itself
// for one: it is cut off, and does not see its lease run out because it waits
// for its disk. For some seconds others acknowledge writes, and it takes reads.
func deposeUnnoticed(ctx context.Context, c *clustertest.Cluster) {
	leader := leaderOf(c)
	c.Stall(leader)
	c.Isolate(leader)
	sleep(ctx, 4*time.Second)
}

func crash(ctx context.Context, c *clustertest.Cluster, victim int, pause time.Duration) {
	c.Crash(victim)
	sleep(ctx, pause)
	c.Start(victim)
}

// client reads and compares-and-swaps on any replica until ctx ends.
func (h *history) client(ctx context.Context, c *clustertest.Cluster, id int, random *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		i := random.IntN(histNodes)
		machine, ok := c.SM(i).(registerMachine)
		if !ok {
			return
		}
		st := &store{state: machine.Store, log: c.Node(i), origin: "test"}
		in := registerOp{read: random.IntN(2) == 0, key: random.IntN(histKeys), value: fmt.Sprintf("%d-%d", id, n)}
		opCtx, cancel := context.WithTimeout(ctx, 8*time.Second)
		if in.read {
			h.record(id, in, func() (registerResult, bool) { return readRegister(opCtx, st, in) })
		} else {
			revision, value := peek(st.View(), in.key)
			in.expect = value
			h.record(id, in, func() (registerResult, bool) { return swapRegister(opCtx, st, in, revision) })
		}
		cancel()
		sleep(ctx, time.Duration(random.IntN(150))*time.Millisecond)
	}
}

func key(k int) string { return fmt.Sprint("registers/", k) }

func peek(v fsm.View, k int) (revision uint64, value string) {
	rec, ok := v.Get(key(k))
	if !ok {
		return 0, ""
	}
	return rec.Revision, string(rec.Value)
}

func readRegister(ctx context.Context, st *store, in registerOp) (registerResult, bool) {
	if err := st.Linearize(ctx); err != nil {
		return registerResult{}, false // says nothing
	}
	_, value := peek(st.View(), in.key)
	return registerResult{ok: true, value: value}, true
}

func swapRegister(ctx context.Context, st *store, in registerOp, revision uint64) (registerResult, bool) {
	_, err := st.Commit(ctx, fsm.Txn{
		Checks: []fsm.Check{{Key: key(in.key), Revision: revision}},
		Ops:    []fsm.Op{fsm.Put(key(in.key), []byte(in.value))},
	})
	switch api.CodeOf(err) { //nolint:exhaustive // the others are the default
	case "":
		return registerResult{ok: true}, true
	case api.CodeConflict:
		return registerResult{}, true
	case api.CodeUnavailable:
		return registerResult{}, false // promised: nothing was done
	default:
		return registerResult{unknown: true}, true
	}
}

// record notes an operation. One without a known end may have happened at any
// time after its call, or never.
func (h *history) record(client int, in registerOp, do func() (registerResult, bool)) {
	call := h.clock.Add(1)
	out, counts := do()
	end := h.clock.Add(1)
	if !counts {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.unknown {
		end = math.MaxInt64
	}
	switch {
	case out.ok:
		h.oks++
	case !in.read && !out.unknown:
		h.conflicts++
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: call, Return: end})
}

func (h *history) check() porcupine.CheckResult {
	model := porcupine.NondeterministicModel{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			byKey := make([][]porcupine.Operation, histKeys)
			for _, op := range ops {
				k := op.Input.(registerOp).key
				byKey[k] = append(byKey[k], op)
			}
			return byKey
		},
		Init: func() []any { return []any{""} },
		Step: func(state, input, output any) []any {
			value, in, out := state.(string), input.(registerOp), output.(registerResult)
			var next []any
			switch {
			case in.read:
				if out.value == value {
					next = []any{value}
				}
			case out.unknown:
				next = []any{value}
				if value == in.expect {
					next = append(next, in.value)
				}
			case out.ok:
				if value == in.expect {
					next = []any{in.value}
				}
			case value != in.expect:
				next = []any{value}
			}
			return next
		},
		Equal: func(a, b any) bool { return a == b },
	}
	return porcupine.CheckOperationsTimeout(model.ToModel(), slices.Clone(h.ops), time.Hour) // of virtual time: no limit
}

// registerMachine is the store, or the store robbed of its checks.
type registerMachine struct {
	stateMachine
	noChecks bool
}

func (m registerMachine) Apply(index uint64, entry []byte) ([][]byte, error) {
	if !m.noChecks {
		return m.Store.Apply(index, entry)
	}
	e, err := fsm.DecodeEntry(entry)
	if err != nil {
		return nil, err
	}
	items := make([][]byte, len(e.Items))
	for i, it := range e.Items {
		it.Txn.Checks = nil
		if items[i], err = fsm.EncodeItem(it); err != nil {
			return nil, err
		}
	}
	if entry, err = fsm.EncodeEntry(e.Time, items); err != nil {
		return nil, err
	}
	return m.Store.Apply(index, entry)
}

type noJournal struct{}

func (noJournal) Sync() error       { return nil }
func (noJournal) Expect(audit.Head) {}

// sleep passes virtual time.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
