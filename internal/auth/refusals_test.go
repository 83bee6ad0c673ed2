package auth_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

// refusalLog runs Refusals whose minutes end with the bubble's.
type refusalLog struct {
	*auth.Refusals
	mu     sync.Mutex
	events []api.Event
}

func newRefusalLog(t *testing.T) *refusalLog {
	t.Helper()
	l := &refusalLog{}
	l.Refusals = auth.NewRefusals(auth.RefusalsOptions{ServerID: "r1", Record: func(e api.Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
	}})
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { l.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	return l
}

// take gives what was told since the last call.
func (l *refusalLog) take(fields ...string) (told [][]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		line := []any{e.User}
		for _, f := range fields {
			line = append(line, e.Fields[f])
		}
		told = append(told, line)
	}
	l.events = nil
	return told
}

func minute() {
	<-time.After(time.Minute) // of the bubble
	synctest.Wait()
}

func TestARefusedCertificateIsToldAtOnceAndItsRepeatsWithTheMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog(t)
		over := api.Errorf(api.CodeUnauthenticated, "the session has ended")
		alice := pki.UserIdentity{User: "alice", SessionID: "s1"}
		ctx := from(t, "192.0.2.7:4711")
		for range 10 {
			l.Refused(ctx, auth.Actor{User: "alice", Addr: home, Session: alice}, over)
		}
		l.Refused(t.Context(), auth.Actor{Addr: home}, over)                                  // nobody vouches for a name
		l.Refused(t.Context(), auth.Actor{User: "alice", Addr: office, Session: alice}, over) // another network
		want := [][]any{
			{"alice", "s1", "192.0.2.7:4711", "203.0.113.1:443", nil, "the session has ended", "r1"},
			{"", nil, "192.0.2.7", nil, nil, "the session has ended", "r1"},
			{"alice", "s1", "198.51.100.7", nil, nil, "the session has ended", "r1"},
		}
		fields := []string{"session_id", "addr.remote", "addr.local", "attempts", "error", "server_id"}
		if d := cmp.Diff(want, l.take(fields...)); d != "" {
			t.Error(d)
		}
		minute() // nobody comes again, and the number is told all the same
		if d := cmp.Diff([][]any{{"alice", "s1", "192.0.2.7:4711", "203.0.113.1:443", 9, "the session has ended", "r1"}}, l.take(fields...)); d != "" {
			t.Error(d)
		}
		minute()
		if d := cmp.Diff([][]any(nil), l.take(fields...)); d != "" {
			t.Error(d)
		}
		for range 3 {
			l.Refused(ctx, auth.Actor{User: "alice", Addr: home, Session: alice}, over)
		}
		l.Flush() // a replica that stops
		if d := cmp.Diff([][]any{{"alice", nil}, {"alice", 2}}, l.take("attempts")); d != "" {
			t.Error(d)
		}
	})
}

// Row "audit injection": nobody can hide behind what others do in the same network.
func TestARefusedCertificateHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog(t)
		for i := range 100 {
			l.Add(auth.Refusal{User: "mallory", SessionID: fmt.Sprint("m", i), Proto: "kube", Remote: "192.0.2.7:1"})
			l.Add(auth.Refusal{SessionID: "unproven", Remote: "192.0.2.7:1"})
		}
		l.take()
		l.Add(auth.Refusal{User: "alice", SessionID: "s1", Proto: "kube", Remote: "192.0.2.7:2"})
		l.Add(auth.Refusal{User: "alice", SessionID: "s2", Proto: "kube", Remote: "192.0.2.7:3"})
		if d := cmp.Diff([][]any{{"alice", "s1"}, {"alice", "s2"}}, l.take("session_id")); d != "" {
			t.Error(d)
		}
		minute()
		if d := cmp.Diff([][]any{{"", 99, nil, nil}, {"mallory", 90, true, 1}}, l.take("attempts", "others", "networks")); d != "" {
			t.Error(d)
		}
	})
}

// Row "audit injection": what strangers cause is bounded, however many networks they
// have, and counted to the last.
func TestStrangersCantFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog(t)
		const networks, rounds = 15_000, 3
		for range rounds {
			for i := range networks {
				addr := netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 5: byte(i >> 8), 6: byte(i), 15: 1})
				l.Add(auth.Refusal{Remote: netip.AddrPortFrom(addr, 4711).String(), Reason: "not a certificate of this cluster"})
			}
		}
		if told := l.take(); len(told) != 10 {
			t.Errorf("%d lines at once", len(told))
		}
		minute()
		told := l.take("attempts", "networks", "others", "addr.remote")
		if len(told) != 11 {
			t.Fatalf("%d lines with the minute", len(told))
		}
		for _, line := range told[:10] {
			if line[1] != rounds-1 {
				t.Errorf("%v", line)
			}
		}
		// Of more networks than that, it is enough to know that they are many.
		if d := cmp.Diff([]any{"", (networks - 10) * rounds, 4096, true, nil}, told[10]); d != "" {
			t.Error(d)
		}
		// Valid users, too, have a bound, and their names.
		for i := range 20_000 {
			l.Add(auth.Refusal{User: fmt.Sprint("u", i/2), SessionID: "s", Remote: fmt.Sprintf("192.0.%d.1:1", i%2)})
		}
		if n := len(l.take()); n != 4096 {
			t.Errorf("%d lines at once", n)
		}
		l.Flush()
		lost, lines := (20_000 - 4096), 0
		for _, line := range l.take("attempts") {
			lost -= line[1].(int)
			lines++
		}
		if lost != 0 || lines > 4097 {
			t.Errorf("%d lines, and %d attempts are untold", lines, lost)
		}
	})
}

// Clients that the audit policy keeps out try again, hundreds of times a second.
func TestRequestsThatTheAuditPolicyKeepsOutAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newRefusalLog(t)
		one := auth.Refusal{User: "alice", SessionID: "s1", Proto: "kube", Remote: "192.0.2.7:4711", Reason: "no leader", Unaudited: true}
		for range 1000 {
			l.Add(one)
		}
		over := one
		over.Unaudited, over.Reason = false, "the session is over"
		l.Add(over) // is told beside it
		minute()
		want := [][]any{
			{"alice", nil, "no leader", 503},
			{"alice", nil, "the session is over", nil},
			{"alice", 999, "no leader", 503},
		}
		if d := cmp.Diff(want, l.take("attempts", "error", "response_code")); d != "" {
			t.Error(d)
		}
		// However many of her sessions are kept out, a stolen one that is over is told.
		for i := range 2 * 10 {
			one.SessionID = fmt.Sprint("s", i)
			l.Add(one)
		}
		over.SessionID, over.Remote = "stolen", "203.0.113.7:1"
		l.Add(over)
		told := l.take("error", "addr.remote")
		if d := cmp.Diff([]any{"alice", "the session is over", "203.0.113.7:1"}, told[len(told)-1]); d != "" {
			t.Error(d)
		}
	})
}
