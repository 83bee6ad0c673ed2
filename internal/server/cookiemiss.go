package server

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/auth"
)

// A cookie that this replica does not know may be of a login that another one
// has just taken, so it asks the leader before it sends anybody to log in again.
// Cookies can be invented, though: what asking may cost is bounded, and beyond
// the bound this replica goes by what it knows.
const (
	missesPerNetwork = 20 // a minute
	missesInAll      = 600
	missTime         = 2 * time.Second
)

// cookieMisses counts how often the leader was asked, within a minute.
type cookieMisses struct {
	mu       sync.Mutex
	since    time.Time
	all      int
	networks map[netip.Prefix]int // no more than missesInAll
}

func (m *cookieMisses) allow(from netip.Addr, now time.Time) bool {
	network := auth.NetworkOf(from)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.networks == nil || now.Sub(m.since).Abs() >= time.Minute {
		m.since, m.all, m.networks = now, 0, map[netip.Prefix]int{}
	}
	if m.all >= missesInAll || m.networks[network] >= missesPerNetwork {
		return false
	}
	m.all++
	m.networks[network]++
	return true
}

// missed says whether to look again for a session that is not known here: its
// record may have come by now. An error: nobody can tell at present.
func (a webAccounts) missed(ctx context.Context, from netip.Addr) (again bool, err error) {
	if !a.misses.allow(from, a.store.View().Now()) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, missTime)
	defer cancel()
	return true, a.store.Linearize(ctx)
}
