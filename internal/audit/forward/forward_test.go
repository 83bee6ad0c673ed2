package forward

import (
	"encoding/json"
	"errors"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// TestEveryLineArrivesInOrderThoughHalfFailsAndLeadersChange: reliability.md, forwarders.
func TestEveryLineArrivesInOrderThoughHalfFailsAndLeadersChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		receive := func(r *http.Request) (*http.Response, error) {
			switch n := got.ask(r); n % 4 {
			case 0:
				return respond(503, "busy")
			case 2:
				return nil, errors.New("connection reset")
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		}
		const total = 12000
		go func() {
			for range total / 40 {
				w.journal.logins(40)
				<-time.After(130 * time.Millisecond)
			}
		}()
		for range 3 {
			stop := w.lead(t, receive)
			after(9*time.Second + 137*time.Millisecond)
			stop()
			after(time.Second)
		}
		stop := w.lead(t, receive)
		after(2 * time.Minute)
		stop()
		numbers := got.taken()
		next, repeats := uint64(1), 0
		for _, n := range numbers {
			switch {
			case n > next:
				t.Fatalf("line %d came before %d", n, next)
			case n < next:
				repeats++
			}
			next = n + 1 // a repeat goes on from where it began
		}
		if next != total+1 || repeats > 3*batchEvents {
			t.Errorf("came to %d, %d repeats", next-1, repeats)
		}
		if c := w.keeper.at("siem"); c.Number != total || !c.Failing.IsZero() || c.Error != "" {
			t.Errorf("%+v", c)
		}
	})
}

func TestCursorIsSavedOnceASecondAndAtTheEndOfTheDuty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			got.take(numbersOf(t, r))
			return respond(204, "")
		})
		for range 100 {
			w.journal.logins(30)
			after(50 * time.Millisecond)
		}
		stop()
		if c := w.keeper.at("siem"); c.Number != uint64(len(got.taken())) || c.Updated.IsZero() {
			t.Errorf("%+v, %d taken", c, len(got.taken()))
		}
		writes := w.keeper.writes
		if len(writes) > 7 {
			t.Errorf("%d writes in 5 s", len(writes))
		}
		for i := 1; i < len(writes)-1; i++ {
			if d := writes[i].Sub(writes[i-1]); d < saveEvery {
				t.Errorf("%s between writes", d)
			}
		}
		// Nothing happens: nothing is written.
		before := len(w.keeper.writes)
		stop = w.lead(t, func(*http.Request) (*http.Response, error) { t.Error("asked"); return respond(200, "") })
		w.journal.dropTo(2)
		after(time.Hour)
		stop()
		if len(w.keeper.writes) != before {
			t.Errorf("%d writes without a reason", len(w.keeper.writes)-before)
		}
	})
}

func TestFilterMovesTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Types = []string{"role.*", "T1000W"} }))
		w.journal.add(10000, "kube.request", "T3009I", `,"Event":"role.created","x":"role.created"`)
		w.journal.add(1, "role.created", "T9000I", "")
		w.journal.add(1, "user.login", "T1000W", "")
		w.journal.logins(5)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(3 * time.Second)
		if d := cmp.Diff([]uint64{10001, 10002}, got.taken()); d != "" {
			t.Error(d)
		}
		if n := w.keeper.at("siem").Number; n != 10007 {
			t.Errorf("cursor %d", n)
		}
		w.journal.logins(3)
		after(3 * time.Second)
		if n := w.keeper.at("siem").Number; n != 10010 {
			t.Errorf("cursor %d", n)
		}
		stop()
	})
}

func TestBatchesAreBoundedAndOneAtATimeForASlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		w.journal.logins(1300)
		w.journal.add(40, "kube.request", "T3009I", `,"x":"`+strings.Repeat("x", 60<<10)+`"`)
		var at atomic.Int32
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			if at.Add(1) != 1 {
				t.Error("two at the same time")
			}
			defer at.Add(-1)
			<-time.After(20 * time.Second)
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(10 * time.Minute)
		stop()
		if d := cmp.Diff(upTo(1, 1340), got.taken()); d != "" {
			t.Error(d)
		}
		sizes := []int{}
		for _, b := range got.batches {
			sizes = append(sizes, len(b))
		}
		if d := cmp.Diff([]int{500, 500, 316, 17, 7}, sizes); d != "" {
			t.Error(d)
		}
	})
}

func TestHangingReceiverIsLeftAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		began := time.Now()
		receive := func(r *http.Request) (*http.Response, error) {
			if got.ask(r) < 3 {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		}
		w.journal.logins(3)
		stop := w.lead(t, receive)
		after(40 * time.Second)
		c := w.keeper.at("siem")
		if c.Number != 0 || c.Failing.Sub(began).Round(time.Second) != sendTimeout || c.Error != "siem.example.com: it did not answer in time" {
			t.Errorf("%+v", c)
		}
		after(40 * time.Second)
		if c := w.keeper.at("siem"); c.Number != 3 || !c.Failing.IsZero() {
			t.Errorf("%+v", c)
		}
		stop()
		// Whoever leads no more waits for nobody.
		got.asked = nil
		w.journal.logins(1)
		stop = w.lead(t, receive)
		after(10 * time.Second)
		stop()
	})
}

func TestRetryAfterIsHeededAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		w.journal.logins(1)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			switch got.ask(r) {
			case 1:
				return respond(429, "", "Retry-After", "90")
			case 2:
				return respond(503, "", "Retry-After", time.Now().Add(2*time.Minute).UTC().Format(http.TimeFormat))
			case 3:
				return respond(429, "", "Retry-After", "86400")
			case 4:
				return respond(500, "", "Retry-After", "-1")
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(time.Hour)
		stop()
		var waits []time.Duration
		for i := 1; i < len(got.at); i++ {
			waits = append(waits, got.at[i].Sub(got.at[i-1]).Round(time.Second))
		}
		// the last: 2 s << 3, half of it and half of the half
		if d := cmp.Diff([]time.Duration{90 * time.Second, 2 * time.Minute, 5 * time.Minute, 12 * time.Second}, waits); d != "" {
			t.Error(d)
		}
	})
}

func TestRemovedWhileSendingTheCursorStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		w.journal.logins(10)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			switch got.ask(r) {
			case 1:
				w.keeper.remove("siem")
				<-r.Context().Done()
				return nil, r.Context().Err()
			case 2:
				// removed and made again before anybody looked
				w.keeper.remove("siem")
				w.keeper.put(webhookDoc(func(d *api.AuditForwarder) { d.Spec.Endpoint = "https://other.example.com/" }))
				return respond(200, "")
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(time.Minute)
		if len(got.asked) != 1 {
			t.Errorf("asked %d times", len(got.asked))
		}
		if _, err := w.keeper.Load("siem"); err == nil {
			t.Error("the cursor came back")
		}
		w.keeper.put(webhookDoc())
		after(time.Minute)
		stop()
		if d := cmp.Diff(upTo(1, 10), got.taken()); d != "" {
			t.Errorf("the new one did not get all from its own cursor on: %s", d)
		}
		if host := got.asked[len(got.asked)-1].URL.Host; host != "other.example.com" {
			t.Error(host)
		}
	})
}

func TestChangedForwarderGoesOnFromTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			got.ask(r)
			if r.Header.Get("Authorization") == "Bearer tok-old" {
				return respond(401, "")
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		w.journal.logins(5)
		after(time.Second)
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) {
			d.Spec.Endpoint, d.Spec.BearerToken = "https://new.example.com/in/ops", "tok-old"
		}))
		after(time.Second)
		w.journal.logins(5)
		after(time.Minute)
		if c := w.keeper.at("siem"); c.Number != 5 || !strings.Contains(c.Error, "new.example.com answered 401 Unauthorized; check spec.bearer_token") {
			t.Errorf("%+v", c)
		}
		// a new token is used at once, whatever the backoff has come to
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) {
			d.Spec.Endpoint, d.Spec.BearerToken, d.Spec.Headers = "https://new.example.com/in/ops", "tok-new", map[string]string{"x-tenant": "ops"}
		}))
		after(time.Second)
		stop()
		if d := cmp.Diff(upTo(1, 10), got.taken()); d != "" {
			t.Error(d)
		}
		last := got.asked[len(got.asked)-1]
		if last.Header.Get("Authorization") != "Bearer tok-new" || last.Header.Get("X-Tenant") != "ops" || last.URL.String() != "https://new.example.com/in/ops" {
			t.Errorf("%s %v", last.URL, last.Header)
		}
	})
}

func TestRefusedLineIsGivenUpOnlyIfOthersAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.journal = w.journal
		w.keeper.put(webhookDoc())
		w.journal.logins(700)
		var all atomic.Bool
		all.Store(true)
		began := time.Now()
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			got.ask(r)
			numbers := numbersOf(t, r)
			if all.Load() || slices.Contains(numbers, 300) {
				return respond(422, "bad field")
			}
			got.take(numbers)
			return respond(200, "")
		})
		after(6 * time.Hour) // a receiver that refuses everything: nothing is given up
		if c := w.keeper.at("siem"); len(got.taken()) != 0 || c.Number != 0 || c.Skipped != 0 || c.Error != "siem.example.com answered 422 Unprocessable Entity: bad field" || !c.Failing.Before(began.Add(time.Minute)) {
			t.Fatalf("%+v", c)
		}
		all.Store(false)
		after(2 * time.Hour)
		stop()
		c := w.keeper.at("siem")
		if c.Number != 701 || c.Skipped != 1 || !c.Failing.IsZero() {
			t.Errorf("%+v", c)
		}
		want := []api.ForwarderSkip{{From: 300, To: 300, Count: 1, Reason: "the receiver refuses it and takes others: siem.example.com answered 422 Unprocessable Entity: bad field"}}
		if d := cmp.Diff(want, w.keeper.skips); d != "" {
			t.Error(d)
		}
		// each line but that one; 301 was the proof, and came again in its place
		if d := cmp.Diff(append(append(upTo(1, 299), 301), upTo(301, 701)...), got.taken()); d != "" {
			t.Error(d)
		}
	})
}

func TestReceiverOfSmallRequestsGetsSmallBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		w.journal.add(600, "kube.request", "T3009I", `,"x":"`+strings.Repeat("x", 1<<10)+`"`)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			n := got.ask(r)
			if r.ContentLength > 100<<10 {
				if n > 10 {
					t.Error("too large again and again")
				}
				return respond(413, "")
			}
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(time.Minute)
		stop()
		if d := cmp.Diff(upTo(1, 600), got.taken()); d != "" {
			t.Error(d)
		}
	})
}

func TestLinesThatRetentionTookAreSkippedAndSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.journal = w.journal
		w.keeper.put(webhookDoc())
		w.journal.logins(1000)
		w.journal.dropTo(401)
		w.keeper.setDown(true)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			got.take(numbersOf(t, r))
			return respond(200, "")
		})
		after(10 * time.Second)
		if len(got.taken()) > 0 {
			t.Error("it goes on though nobody can be told")
		}
		w.keeper.setDown(false)
		after(10 * time.Second)
		stop()
		if d := cmp.Diff([]api.ForwarderSkip{{From: 1, To: 400, Count: 400, Reason: "retention took them before they were sent"}}, w.keeper.skips); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(upTo(401, 1001), got.taken()); d != "" { // with the event about it
			t.Error(d)
		}
		if c := w.keeper.at("siem"); c.Number != 1001 || c.Skipped != 400 {
			t.Errorf("%+v", c)
		}
	})
}

// TestLinesThatThisReplicaLacksAreWaitedFor: its journal may have a gap that is being
// filled, and Lines ends, or jumps, there.
func TestLinesThatThisReplicaLacksAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.put(webhookDoc())
		w.journal.logins(10)
		first := atomic.Uint64{}
		first.Store(1)
		f, err := New(Options{
			Source: w.journal, Cursors: w.keeper, List: w.keeper.list, First: first.Load, Last: func() uint64 { return 10 },
			HTTP: &http.Client{Transport: receiverFunc(func(r *http.Request) (*http.Response, error) {
				got.take(numbersOf(t, r))
				return respond(200, "")
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.journal.dropTo(6) // here alone
		defer start(t, f)()
		after(time.Minute)
		if len(got.taken()) > 0 || len(w.keeper.skips) > 0 {
			t.Errorf("%v %v", got.taken(), w.keeper.skips)
		}
		w.journal.dropTo(1)
		after(5 * time.Second)
		if d := cmp.Diff(upTo(1, 10), got.taken()); d != "" {
			t.Error(d)
		}
	})
}

// TestLinesRefusedAlikeAreGivenUpTogether: reliability.md, forwarders. One odd line
// costs ten minutes; who gets more of them into the log does not delay all others by as
// much for each.
func TestLinesRefusedAlikeAreGivenUpTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, got := newWorld(), &inbox{}
		w.keeper.journal = w.journal
		w.keeper.put(webhookDoc())
		w.journal.logins(600)
		odd := func(n uint64) bool { return n >= 100 && n < 130 || n <= 600 && n%100 == 7 }
		var status, oddest atomic.Int32
		status.Store(422)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			numbers := numbersOf(t, r)
			if int(status.Load()) != 422 || slices.ContainsFunc(numbers, odd) || slices.Contains(numbers, uint64(oddest.Load())) {
				return respond(int(status.Load()), "bad field")
			}
			got.take(numbers)
			return respond(200, "")
		})
		after(35 * time.Minute)
		var want []uint64
		for n := uint64(1); n <= 600; n++ {
			if !odd(n) {
				want = append(want, n)
			}
		}
		numbers := slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(got.taken()))), func(n uint64) bool { return n > 600 })
		if d := cmp.Diff(want, numbers); d != "" {
			t.Error(d)
		}
		count := uint64(0)
		for _, s := range w.keeper.told() {
			count += s.Count
			if !strings.Contains(s.Reason, "422 Unprocessable Entity: bad field") {
				t.Errorf("%+v", s)
			}
		}
		c := w.keeper.at("siem")
		if count != 35 || c.Skipped != 35 || len(w.keeper.told()) > 20 || c.Number < 600 {
			t.Errorf("%d lines given up in %d events; %+v", count, len(w.keeper.told()), c)
		}

		// a receiver that is not well afterwards loses nothing by it
		before := len(w.keeper.told())
		status.Store(400)
		w.journal.logins(20)
		after(20 * time.Minute)
		status.Store(422)
		after(10 * time.Minute)
		// and much later a line has to be refused for as long again
		after(time.Hour)
		w.journal.logins(5)
		_, last := w.journal.bounds()
		oddest.Store(int32(last))
		w.journal.logins(5)
		after(9 * time.Minute)
		if n := len(w.keeper.told()); n != before {
			t.Errorf("%+v", w.keeper.told()[before:])
		}
		after(10 * time.Minute)
		stop()
		if n := len(w.keeper.told()); n != before+1 {
			t.Errorf("%+v", w.keeper.told()[before:])
		}
	})
}

// TestLinesGivenUpAreToldByTheNextLeader: the cursor does not pass a line that nobody
// was told of.
func TestLinesGivenUpAreToldByTheNextLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.keeper.put(webhookDoc())
		w.journal.logins(20)
		stop := w.lead(t, func(r *http.Request) (*http.Response, error) {
			if numbers := numbersOf(t, r); slices.Contains(numbers, 5) || slices.Contains(numbers, 8) {
				return respond(422, "")
			}
			return respond(200, "")
		})
		for len(w.keeper.told()) == 0 {
			after(time.Second)
		}
		w.keeper.setMute(true) // as if it died before it tells of the next
		after(3 * time.Minute)
		stop()
		if c := w.keeper.at("siem"); c.Number != 7 || c.Skipped != 1 {
			t.Errorf("%+v", c)
		}
	})
}

func TestSecretsAreNeverRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		secrets := []string{"tok-12345", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/9=", "hdr secret&1", "splunk-abc", "/T00/B00/PATHSECRET%2Fx", "/T00/B00/PATHSECRET/x"}
		w.keeper.put(webhookDoc(func(d *api.AuditForwarder) {
			d.Spec.Endpoint = "https://siem.example.com/T00/B00/PATHSECRET%2Fx"
			d.Spec.SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/9="
			d.Spec.Headers = map[string]string{"X-Key": "hdr secret&1", "X-Other": "Splunk splunk-abc"}
		}))
		w.journal.logins(1)
		says := make(chan string, 1)
		stop := w.lead(t, func(*http.Request) (*http.Response, error) {
			return respond(403, "\x1b[31mno\u202e: "+<-says+strings.Repeat("é", 8<<10))
		})
		for name, spell := range map[string]func(string) string{
			"as it is":       func(s string) string { return s },
			"in a query":     url.QueryEscape,
			"in a path":      url.PathEscape,
			"in lower case":  func(s string) string { return strings.ToLower(url.QueryEscape(s)) },
			"in HTML":        html.EscapeString,
			"in JSON":        func(s string) string { b, _ := json.Marshal(s); return string(b[1 : len(b)-1]) },
			"in JSON of PHP": func(s string) string { return strings.ReplaceAll(s, "/", `\/`) },
		} {
			var all []string
			for _, secret := range secrets {
				all = append(all, spell(secret))
			}
			says <- strings.Join(all, " ")
			after(6 * time.Minute)
			text := w.keeper.at("siem").Error
			if left := strings.ReplaceAll(text, "[secret]", ""); len(text) > maxShown+200 || strings.ContainsAny(text, "\x1b\u202e") || !strings.Contains(text, "403 Forbidden: [31mno: [secret]") ||
				len(strings.Fields(left)) > 12 {
				t.Errorf("%s: %q", name, text)
			}
			for _, piece := range []string{"12345", "MfKQ", "hdr", "abc", "PATHSECRET", "B00"} {
				if strings.Contains(strings.ToLower(text+w.logged.String()), strings.ToLower(piece)) {
					t.Errorf("%s: %s is in %s\n%s", name, piece, text, w.logged)
				}
			}
		}
		close(says)
		stop()
	})
}
