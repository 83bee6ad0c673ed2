package auth

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/pki"
)

const (
	refusalsEvery = time.Minute
	// maxRefusalLines of a user, and of all strangers together, stand in a minute's
	// log by themselves: each is of one network, and of one session.
	maxRefusalLines = 10
	maxRefusals     = 4096 // lines, users and networks that are remembered in a minute
)

// Refusal is a client certificate that was not accepted, or a request that was not
// even looked at.
type Refusal struct {
	// User and SessionID are whose it is, if it is valid and its session over. Of
	// other certificates nobody vouches for the name.
	User, SessionID string
	Proto           string // kube; "" for the API
	Remote, Local   string // host:port
	Reason          string
	// Unaudited: nothing is wrong with the certificate; the audit policy lets no
	// request of anybody in.
	Unaudited bool
}

// RefusalsOptions are the options of NewRefusals.
type RefusalsOptions struct {
	Record   func(api.Event) // must not block; nil: nobody is told
	ServerID string
}

// Refusals tell the log of client certificates that were not accepted (somebody forgot
// to log in, or tries what was taken from somebody), and of requests that the audit
// policy kept out. They cost who sends them nothing,
// so that the log can't be filled with them, no request waits for it, and one that is
// told hides no other's: the first of a network (and session) is told at once, how many
// followed when the minute ends. What is beyond maxRefusalLines is one line more, with
// the numbers of attempts and networks.
type Refusals struct {
	o RefusalsOptions

	mu     sync.Mutex
	told   map[refusalKey]*refusalCount // of this minute
	order  []*refusalCount              // the same, oldest first
	lines  map[refusalsOf]int
	others map[refusalsOf]*otherRefusals // those without a line
}

// refusalsOf are counted together: what the audit policy keeps out must not hide who
// tries a certificate that is not theirs.
type refusalsOf struct {
	user      string // "": strangers
	unaudited bool
}

type refusalKey struct {
	user, session, proto string
	network              netip.Prefix
	unaudited            bool
}

type refusalCount struct {
	last   Refusal
	untold int
}

type otherRefusals struct {
	last     Refusal
	attempts int
	networks map[netip.Prefix]struct{}
}

// NewRefusals has told nothing yet.
func NewRefusals(o RefusalsOptions) *Refusals {
	r := &Refusals{o: o}
	r.clear()
	return r
}

func (r *Refusals) clear() {
	r.told, r.order, r.lines, r.others = map[refusalKey]*refusalCount{}, nil, map[refusalsOf]int{}, map[refusalsOf]*otherRefusals{}
}

// Refused is Add for a request by the API.
func (r *Refusals) Refused(ctx context.Context, by Actor, reason error) {
	one := Refusal{User: by.Session.User, SessionID: by.Session.SessionID, Reason: reason.Error()}
	ends := map[string]any{}
	PutAddresses(ctx, ends, by.Addr)
	one.Remote, _ = ends["addr.remote"].(string)
	one.Local, _ = ends["addr.local"].(string)
	r.Add(one)
}

// Add counts a refusal, and tells it if it is the first of its kind in this minute.
func (r *Refusals) Add(one Refusal) {
	if one.User == "" {
		one.SessionID = ""
	}
	key := refusalKey{user: one.User, session: one.SessionID, proto: one.Proto, network: networkOfRemote(one.Remote), unaudited: one.Unaudited}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.told[key]; c != nil {
		c.last = one
		c.untold++
		return
	}
	of := refusalsOf{one.User, one.Unaudited}
	if r.lines[of] < maxRefusalLines && len(r.told) < maxRefusals {
		r.lines[of]++
		c := &refusalCount{last: one}
		r.told[key], r.order = c, append(r.order, c)
		r.tell(one, nil)
		return
	}
	if r.others[of] == nil && len(r.others) >= maxRefusals {
		of.user = ""
	}
	o := r.others[of]
	if o == nil {
		o = &otherRefusals{networks: map[netip.Prefix]struct{}{}}
		r.others[of] = o
	}
	o.last = one
	o.attempts++
	if len(o.networks) < maxRefusals {
		o.networks[key.network] = struct{}{}
	}
}

// networkOfRemote takes host:port, or a bare address.
func networkOfRemote(remote string) netip.Prefix {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return NetworkOf(ap.Addr())
	}
	addr, _ := netip.ParseAddr(remote)
	return NetworkOf(addr)
}

// Run tells at the end of each minute what followed in it, until ctx ends. Flush tells
// what is left then.
func (r *Refusals) Run(ctx context.Context) {
	tick := time.NewTicker(refusalsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.Flush()
		}
	}
}

// Flush ends a minute.
func (r *Refusals) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.order {
		if c.untold > 0 {
			r.tell(c.last, map[string]any{"attempts": c.untold})
		}
	}
	for of, o := range r.others {
		// Who they are and where from, no one line can say; an address would accuse one.
		r.tell(Refusal{User: of.user, Reason: o.last.Reason, Unaudited: of.unaudited}, map[string]any{
			"attempts": o.attempts, "networks": len(o.networks), "others": true,
		})
	}
	r.clear()
}

func (r *Refusals) tell(one Refusal, more map[string]any) {
	if r.o.Record == nil {
		return
	}
	fields := map[string]any{"success": false, "error": one.Reason}
	kind := ""
	switch {
	case pki.SignedSessionID(one.SessionID):
		kind = api.SessionSigned
	case one.SessionID != "":
		kind = api.SessionCLI // certificates alone come here
	}
	for name, v := range map[string]string{
		"server_id": r.o.ServerID, "session_id": one.SessionID, "kind": kind, "proto": one.Proto, "addr.remote": one.Remote, "addr.local": one.Local,
	} {
		if v != "" {
			fields[name] = v
		}
	}
	maps.Copy(fields, more)
	ev := api.Event{Event: api.EventAuthAttempt, Code: api.EventCodeAuthAttempt, User: one.User, Fields: fields}
	if one.Unaudited {
		ev.Event, ev.Code = api.EventKubeRequest, api.EventCodeKubeRequestRefused
		fields["response_code"] = http.StatusServiceUnavailable
	}
	r.o.Record(ev)
}
