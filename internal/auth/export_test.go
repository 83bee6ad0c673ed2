package auth

import "github.com/sallyport-dev/sallyport/fsm"

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
