package tests

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/sallyport"
	"github.com/sallyport-dev/sallyport/e2e/testbed"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// lease is for how long the lock of a replica that died keeps the others waiting.
const lease = 30 * time.Second

type errTooFew int

func (e errTooFew) Error() string { return fmt.Sprintf("only %d", int(e)) }

// First the authority is down, which all replicas know and say alike, and is back. Then
// the replica that orders is killed amidst two orders, at different points of them: row
// 22 of reliability.
func TestACMEHolderDies(t *testing.T) {
	t.Parallel()
	a := startACME(t, testbed.PebbleOptions{}, false)
	a.resolve(t, here, clusterName, publicName)
	holder, others := followers(t, a.Cluster) // the leader, for the others to have more trouble
	a.withoutAuthority(t)

	// The order for one name hangs with everything done but its end, the other before its challenge.
	fail := func(faults ...testbed.Fault) {
		if err := a.pebble.SetFault(faults...); err != nil {
			t.Fatal(err)
		}
	}
	hanging := func(n int) {
		testbed.Wait(t, testbed.Patience, "orders that hang", func() error {
			if got := a.pebble.Hanging(); got != n {
				return fmt.Errorf("%d, not %d", got, n)
			}
			return nil
		})
	}
	type answer struct {
		shown
		err error
	}
	ask := func(r *sallyport.Replica, name string) <-chan answer {
		got := make(chan answer, 1)
		go func() {
			tick := time.NewTicker(100 * time.Millisecond) // what was found out is true for half a second
			defer tick.Stop()
			for start := time.Now(); ; <-tick.C {
				s, err := a.handshake(t.Context(), r.ListenAddr(), name)
				if err != nil || s.public || time.Since(start) > 3*time.Second {
					got <- answer{s, err}
					return
				}
			}
		}()
		return got
	}
	atFinalize := testbed.Fault{Kind: testbed.FaultHang, Path: testbed.PebbleFinalize}
	fail(atFinalize)
	cut := []<-chan answer{ask(holder, publicName)}
	hanging(1)
	fail(atFinalize, testbed.Fault{Kind: testbed.FaultHang, Path: testbed.PebbleChallenge})
	a.resolve(t, there, clusterName) // what it has failed for is over
	cut = append(cut, ask(holder, clusterName))
	hanging(2)
	before := len(a.orders(""))
	killed := time.Now()
	holder.Kill()
	hanging(0)
	fail()
	for _, c := range cut {
		if got := <-c; got.err == nil {
			t.Errorf("a handshake with a replica that was killed: %+v", got)
		}
	}
	leaderOf(t, a.Cluster) // without one nobody knows whether there is a certificate
	names := []string{publicName, clusterName}
	atOnce(2, func(i int) {
		first, second := ask(others[0], names[i]), ask(others[1], names[i])
		one, two := <-first, <-second
		since := time.Since(killed)
		if err := errors.Join(one.err, two.err); err != nil || !one.public || !two.public || one.serial() != two.serial() {
			t.Errorf("%s after the holder's death: %+v, %+v", names[i], one, two)
		}
		t.Logf("%s: %v after the holder's death the others show the same certificate", names[i], since)
		if since > 2*lease { // the order takes its time, too, where much else runs
			t.Errorf("not within the lease of %v and the time for an order", lease)
		}
	})
	byName := map[string]int{}
	for _, o := range a.pebble.Live() {
		byName[o.Names[0]]++
	}
	t.Logf("%d orders before, %d in all (%d for %s, %d for %s), %d certificates; alive: %v", before, len(a.orders("")),
		len(a.orders(clusterName)), clusterName, len(a.orders(publicName)), publicName, a.pebble.Issued(), byName)
	// What lacked only its end is ended by another; what was at its challenge is given back, and ordered anew.
	if len(a.orders(publicName)) != 1 || len(a.orders(clusterName)) != 2 || a.pebble.Issued() != 2 || byName[clusterName] != 1 || byName[publicName] != 1 {
		t.Errorf("orders %+v, of which alive %+v", a.pebble.Orders(), a.pebble.Live())
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if err := holder.WaitReady(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s := a.shows(t, holder.ListenAddr(), clusterName); !s.public {
		t.Errorf("the replica that was killed shows a certificate by %v", s.leaf.Issuer)
	}
	a.status(t, func(c api.WebCertificate) bool { return c.State == api.CertificateValid && c.LastError == "" })
	if got := a.pebble.Issued(); got != 2 {
		t.Errorf("%d certificates in the end", got)
	}
}

// withoutAuthority is while nobody listens there.
func (a *acmeCluster) withoutAuthority(t *testing.T) {
	t.Helper()
	if err := a.pebble.SetFault(testbed.Fault{Kind: testbed.FaultDown}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if s := a.shows(t, a.Replicas[0].ListenAddr(), clusterName); s.public {
		t.Fatal("a certificate without an authority")
	}
	first := time.Since(start)
	st := a.status(t, func(c api.WebCertificate) bool { return c.State == api.CertificateFailing })
	if st.Failures != 1 || !strings.Contains(st.LastError, "connection refused") || st.NextTry.Sub(st.LastErrorAt) != time.Minute || st.Directory != a.pebble.URL {
		t.Errorf("status: %+v", st)
	}
	if err := a.pebble.SetFault(); err != nil {
		t.Fatal(err)
	}
	requests := len(a.pebble.Requests())
	slowest := time.Duration(0)
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for _, r := range a.Replicas {
		ctx := within(t, 20*time.Second)
		said := ok(t, r.Tctl(ctx, "status")).Stdout
		for _, want := range []string{"connection refused", "Next try", "sooner if the name's addresses change"} {
			if !strings.Contains(said, want) {
				problem("%s: %q is not in the status: %s", r.Name, want, said)
			}
		}
		if next, fails := metric(ctx, t, r, "sallyport_acme_next_try_timestamp_seconds"), metric(ctx, t, r, "sallyport_acme_failures"); fails != 1 || next != float64(st.NextTry.UnixMilli())/1000 {
			problem("%s: metrics: next try at %f, failures %g", r.Name, next, fails)
		}
		s := a.shows(t, r.ListenAddr(), clusterName)
		if slowest = max(slowest, s.took); s.public {
			problem("%s ordered before its time", r.Name)
		}
	}
	if asked := a.pebble.Requests()[requests:]; len(asked) != 0 {
		problem("the authority was asked before its time: %v", asked)
	}
	if time.Now().Before(st.NextTry) { // else it was so slow here that they were to try again
		for _, p := range problems {
			t.Error(p)
		}
	}
	t.Logf("the authority is down: the first handshake gets the host CA's certificate after %v, later ones within %v; tried again after %v, or when addresses change",
		first, slowest, st.NextTry.Sub(st.LastErrorAt))
}
