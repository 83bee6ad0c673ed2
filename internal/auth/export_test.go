package auth

import (
	"context"
	"errors"
	"net/netip"

	"github.com/sallyport-dev/sallyport/fsm"
)

// Derivations counts key derivations, and the most that ran at once.
func (s *Service) Derivations() (total, peak int64) {
	return s.Login.passwords.derivations.Load(), s.Login.passwords.peak.Load()
}

// HoldDerivations keeps every derivation waiting until release is called.
func (s *Service) HoldDerivations() (release func()) {
	slots := s.Login.passwords.slots
	for range cap(slots) {
		slots <- struct{}{}
	}
	return func() {
		for range cap(slots) {
			<-slots
		}
	}
}

// PutRaw writes any record, as a newer version or an attacker at the store would.
func PutRaw(key, value string) fsm.Txn { return fsm.Txn{Ops: []fsm.Op{fsm.Put(key, []byte(value))}} }

// Networks counts the networks that the limiter remembers.
func (s *Service) Networks() int {
	return s.Login.limiter.networks.seen.len() + s.Login.limiter.wide.seen.len()
}

// AttemptUser is the hash that stands for a user in keys of attempts.
func AttemptUser(user string) string { return attemptUser(user) }

// MatchTOTP judges a code.
var MatchTOTP = matchTOTP

// OpenLoginState says whether a login's state opens.
func (s *Service) OpenLoginState(text string) error {
	_, err := s.Authorities.keys.openState(s.base.db.View(), stateLogin, text)
	return err
}

// JudgePasskey judges an answer to a login's state and to an offer's, and writes
// nothing.
func (s *Service) JudgePasskey(user, login, offer string, answer []byte) (loginErr, offerErr error) {
	ctx := context.Background()
	v := s.base.db.View()
	life, _, err := userLife(v, user)
	if err != nil {
		return err, err
	}
	p, err := s.Preference.policy(v)
	if err != nil {
		return err, err
	}
	a := FactorAnswer{WebAuthn: answer}
	if len(answer) == 0 {
		a.WebAuthn = []byte(" ")
	}
	st, err := s.Authorities.keys.openState(v, stateLogin, login)
	if err != nil {
		return err, err
	}
	_, loginErr = s.Factors.prove(v, life, a, st.Challenge, netip.Addr{})
	if wrong, ok := errors.AsType[*wrongFactor](loginErr); ok {
		loginErr = wrong.answer
	}
	if st, err = s.Authorities.keys.openState(v, stateOffer, offer); err != nil {
		return loginErr, err
	}
	_, _, offerErr = s.Factors.enrol(ctx, v, p, life, "id", st, Enrolment{FactorAnswer: a}, Actor{})
	return loginErr, offerErr
}

// JoinNetworks counts the networks that the limiters of joins remember.
func (s *Service) JoinNetworks() int {
	n := 0
	for _, l := range []*limiter{s.Agents.guesses, s.Agents.proofs} {
		n += l.networks.seen.len() + l.wide.seen.len()
	}
	return n
}

// BoundAgents sets how many agents and clusters there may be, in all and by one token.
func (s *Service) BoundAgents(all, ofToken, clusters, clustersOfToken int) {
	a := s.Agents
	a.maxAgents, a.maxTokenAgents, a.maxClusters, a.maxTokenClusters = all, ofToken, clusters, clustersOfToken
}
