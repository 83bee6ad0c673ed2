package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

const (
	lockAfter      = 5
	lockFor        = 20 * time.Minute
	attemptTTL     = 30 * time.Minute // a failure counts that long
	slowAfter      = 10               // failures of one user from all networks
	slowTTL        = 10 * time.Minute
	slowStep       = 250 * time.Millisecond
	maxSlow        = 5 * time.Second
	allNetworks    = "all"
	maxFailures    = 1000 // where the count of all stops
	attemptHashLen = 16
)

// attemptUser stands for a user's name in keys. It is a hash because the name is
// what a stranger typed, of any length and bytes.
func attemptUser(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:attemptHashLen])
}

// How long, how exactly and how many networks of a user are known.
const (
	knownFor   = 30 * 24 * time.Hour
	knownAgain = 24 * time.Hour // a login writes the time only if it is that much later
	maxKnown   = 16
)

// knownNetwork says whether a user has logged in from a network lately. It
// decides about nothing but whose turn it is while somebody guesses.
func knownNetwork(v fsm.View, user string, addr netip.Addr) bool {
	if !addr.IsValid() || len(user) > api.MaxNameLen {
		return false
	}
	known, _, err := knownNets.Get(v, user)
	return err == nil && v.Now().Before(known.Networks[NetworkOf(addr).String()].Add(knownFor))
}

// knowAlone gives the operation that remembers a network, and no other.
func knowAlone(v fsm.View, user string, addr netip.Addr) ([]fsm.Op, error) {
	if !addr.IsValid() {
		return nil, nil
	}
	op, err := knownNets.Put(user, &knownRecord{Networks: map[string]time.Time{NetworkOf(addr).String(): v.Now()}}, knownFor)
	return []fsm.Op{op}, err
}

// knowNetwork gives the operation that remembers a network, none if it is known
// well enough. It needs no check: of two at once, one is remembered later.
func knowNetwork(v fsm.View, user string, addr netip.Addr) ([]fsm.Op, error) {
	if !addr.IsValid() {
		return nil, nil
	}
	network, now := NetworkOf(addr).String(), v.Now()
	next := knownRecord{Networks: map[string]time.Time{}}
	if known, _, err := knownNets.Get(v, user); err == nil {
		if now.Before(known.Networks[network].Add(knownAgain)) {
			return nil, nil
		}
		next.Networks = maps.Clone(known.Networks)
	}
	next.Networks[network] = now
	for len(next.Networks) > maxKnown {
		oldest := network
		for n, at := range next.Networks {
			if at.Before(next.Networks[oldest]) {
				oldest = n
			}
		}
		delete(next.Networks, oldest)
	}
	op, err := knownNets.Put(user, &next, knownFor)
	return []fsm.Op{op}, err
}

// failures is what the store knows of one user's failed logins, from one
// network and from all.
type failures struct {
	pairName, allName string
	pair, all         *attemptRecord // nil: none
	pairRec, allRec   *fsm.Record
}

func pairName(user string, addr netip.Addr) string {
	network := NetworkOf(addr)
	return attemptUser(user) + "/" + fmt.Sprintf("%s_%d", network.Addr(), network.Bits())
}

func readFailures(v fsm.View, user string, addr netip.Addr) (failures, error) {
	f := failures{
		pairName: pairName(user, addr),
		allName:  attemptUser(user) + "/" + allNetworks,
	}
	var err error
	if f.pair, f.pairRec, err = attempts.Get(v, f.pairName); err != nil && !errors.Is(err, fsm.ErrNotFound) {
		return f, readError("login attempts", "", err)
	}
	if f.all, f.allRec, err = attempts.Get(v, f.allName); err != nil && !errors.Is(err, fsm.ErrNotFound) {
		return f, readError("login attempts", "", err)
	}
	return f, nil
}

// locked says whether the pair of user and network is locked: after five
// failures the record lives on for 20 minutes.
func (f failures) locked(now time.Time) error {
	if f.pair == nil || f.pair.Failures < lockAfter {
		return nil
	}
	left := f.pairRec.Expires.Sub(now).Round(time.Minute)
	return api.Errorf(api.CodeRateLimited, "too many failed logins from your network: try again in %d minutes", max(1, int(left.Minutes())))
}

// delay slows guesses that are spread over many networks. It grows with the
// failures and is bounded: the user is never locked, or anyone could lock out
// the last administrator.
func (f failures) delay() time.Duration {
	if f.all == nil || f.all.Failures < slowAfter {
		return 0
	}
	return min(slowStep<<min(f.all.Failures-slowAfter, 10), maxSlow)
}

// count gives the operations and checks that count one more failure.
func (f failures) count(now time.Time) (fsm.Txn, error) {
	next := func(old *attemptRecord) *attemptRecord {
		n := 1
		if old != nil {
			n = min(old.Failures+1, maxFailures)
		}
		return &attemptRecord{Failures: n, Last: now}
	}
	pair, ttl := next(f.pair), attemptTTL
	if pair.Failures >= lockAfter {
		ttl = lockFor
	}
	putPair, err := attempts.Put(f.pairName, pair, ttl)
	if err != nil {
		return fsm.Txn{}, err
	}
	putAll, err := attempts.Put(f.allName, next(f.all), slowTTL)
	return fsm.Txn{Checks: append(f.unchanged(), fsm.Check{Key: putAll.Key, Revision: revision(f.allRec)}), Ops: []fsm.Op{putPair, putAll}}, err
}

// unchanged is the check that no failure of the pair was counted since: without
// it, guesses made at once would all be judged by the same count.
func (f failures) unchanged() []fsm.Check {
	return []fsm.Check{{Key: attempts.Key(f.pairName), Revision: revision(f.pairRec)}}
}
