package acme

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestRenewalIsOneOrderThatAllReplicasTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		replicas := []*member{w.start("a"), w.start("b"), w.start("c")}
		replicas[0].shows("1")
		for serial := range int64(5) {
			due := replicas[0].Status().RenewAfter
			if left := time.Until(due); left != 60*24*time.Hour && serial == 0 {
				t.Errorf("due in %v, want two thirds of 90 days", left)
			}
			time.Sleep(time.Until(due) - time.Second)
			if n := w.authority.ordered(); n != int(serial)+1 {
				t.Fatalf("%d orders before it is due", n)
			}
			time.Sleep(maxJitter + 2*time.Second)
			for _, r := range replicas {
				if got, want := r.serial(), replicas[0].serial(); got != want || got == "" {
					t.Errorf("%s shows %s, another %s", r.opts.ServerID, got, want)
				}
			}
			if n := w.authority.ordered(); n != int(serial)+2 {
				t.Fatalf("%d orders, want %d", n, serial+2)
			}
		}
	})
}

func TestOtherReplicasShowANewCertificateWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		a.shows("1")
		began := time.Now()
		synctest.Wait()
		if b.serial() != "1" || time.Since(began) > time.Second {
			t.Errorf("b shows %q after %v", b.serial(), time.Since(began))
		}
	})
}

func TestReplicaThatWasDownShowsTheNewCertificateWithoutAskingAnybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		a.shows("1")
		b.end()
		time.Sleep(61 * 24 * time.Hour)
		synctest.Wait()
		w.log.lead(false)
		w.set(func(w *world) { w.lookup = errors.New("no DNS") })
		again := w.stopped("b", b.db)
		again.run()
		if got := again.serial(); got != "2" {
			t.Errorf("shows %q", got)
		}
		again.shows("2")
	})
}

func TestCertificateIsRenewedEarlyWhenTheAuthoritySaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.window = time.Now().Add(50 * 24 * time.Hour) })
		replicas := []*member{w.start("a"), w.start("b"), w.start("c")}
		replicas[0].shows("1")
		synctest.Wait()
		planned := replicas[2].Status().RenewAfter
		if time.Until(planned) != 50*24*time.Hour {
			t.Errorf("planned in %v", time.Until(planned))
		}
		time.Sleep(24 * time.Hour)
		var n int
		w.authority.set(func(a *fakeAuthority) { n = a.asked })
		if n < 3 || n > 4 {
			t.Errorf("asked %d times in a day, want one replica every six hours", n)
		}
		// All certificates of the day are about to be revoked.
		w.authority.set(func(a *fakeAuthority) { a.window = time.Now().Add(-time.Hour) })
		time.Sleep(7 * time.Hour)
		// Even if it says so of the new one, that isn't ordered again and again.
		if n := w.authority.ordered(); n < 2 || n > 9 {
			t.Errorf("%d orders", n)
		}
		for _, r := range replicas {
			if got := r.serial(); got == "1" || got == "" {
				t.Errorf("%s still shows %q", r.opts.ServerID, got)
			}
		}
	})
}

func TestAuthorityCannotPutOffARenewalForTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.authority.set(func(a *fakeAuthority) { a.window = time.Now().Add(1000 * 24 * time.Hour) })
		r := w.start("a")
		r.shows("1")
		if left := time.Until(r.Status().NotAfter) - time.Until(r.Status().RenewAfter); left != 108*time.Hour {
			t.Errorf("renewed with %v left, want a twentieth of 90 days", left)
		}
	})
}

func TestRenewalThatFailsKeepsTheOldCertificateAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start("a"), w.start("b")
		a.shows("1")
		w.authority.set(func(a *fakeAuthority) { a.fail = errors.New("the authority is closed") })
		time.Sleep(59 * 24 * time.Hour)
		a.lines.take()
		b.lines.take()
		time.Sleep(49 * time.Hour)
		attempts := w.authority.ordered() - 1
		if attempts < patientFailures+10 || attempts > patientFailures+20 {
			t.Errorf("%d attempts in a day", attempts)
		}
		told := 0
		for _, line := range append(a.lines.take(), b.lines.take()...) {
			if !strings.Contains(line, `msg="a certificate couldn't be ordered"`) || !strings.Contains(line, "the authority is closed") {
				t.Errorf("log: %s", line)
			}
			told++
		}
		if told != attempts {
			t.Errorf("%d log lines for %d attempts", told, attempts)
		}
		for _, r := range []*member{a, b} {
			r.shows("1")
			st := r.Status()
			if st.State != api.CertificateValid || st.LastError != "the authority is closed" || st.Failures != attempts || st.NextTry.IsZero() {
				t.Errorf("status %+v", st)
			}
			m := metrics(t, r)
			if m["sallyport_acme_failures"] != float64(attempts) || m["sallyport_acme_next_try_timestamp_seconds"] != seconds(st.NextTry) {
				t.Errorf("metrics %v", m)
			}
		}
		if got := a.failed.Load() + b.failed.Load(); got != uint64(attempts) {
			t.Errorf("%d failures counted", got)
		}

		// For a month: then it ends.
		time.Sleep(30 * 24 * time.Hour)
		if st := a.Status(); st.State != api.CertificateExpired || a.Current(webName) != nil {
			t.Errorf("status %+v", st)
		}
		w.authority.set(func(a *fakeAuthority) { a.fail = nil })
		time.Sleep(61 * time.Minute)
		b.shows("2")
	})
}

func TestRenewalWaitsWhileTheNameLeadsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		r.shows("1")
		w.set(func(w *world) { w.leads = false })
		time.Sleep(61 * 24 * time.Hour)
		if st := r.Status(); w.authority.ordered() != 1 || st.State != api.CertificateValid || !strings.Contains(st.LastError, "somebody else answers") {
			t.Errorf("%d orders, status %+v", w.authority.ordered(), st)
		}
		w.set(func(w *world) { w.leads = true })
		time.Sleep(refusedEvery + time.Second)
		r.shows("2")
	})
}

func TestMetricsSayWhatPrometheusRulesNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.start("a")
		r.shows("1")
		want := map[string]float64{
			`sallyport_acme_orders_total outcome=failed`: 0,
			`sallyport_acme_orders_total outcome=issued`: 1,
			`sallyport_acme_renewal_timestamp_seconds`:   float64(r.Status().RenewAfter.Unix()),
			`sallyport_acme_next_try_timestamp_seconds`:  0,
			`sallyport_acme_failures`:                    0,
		}
		if diff := cmp.Diff(want, metrics(t, r)); diff != "" {
			t.Error(diff)
		}
	})
}

// metrics are the values by name and labels.
func metrics(t *testing.T, r *member) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r.Collector())
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			values[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return values
}

// R1: the first handshake after a restart shows what there is.
func TestCertificateIsThereBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start("a").shows("1")
		b := w.stopped("b", w.log.replica(t))
		w.log.lead(false)
		b.Load(t.Context())
		if got := b.serial(); got != "1" {
			t.Errorf("shows %q", got)
		}
		w.stopped("c", newTestDB(t)).Load(t.Context()) // an empty store
	})
}
