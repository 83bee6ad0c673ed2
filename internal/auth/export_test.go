package auth

import "github.com/sallyport-dev/sallyport/fsm"

// Derivations counts key derivations, and the most that ran at once.
func (s *Service) Derivations() (total, peak int64) {
	return s.Login.passwords.derivations.Load(), s.Login.passwords.peak.Load()
}

// PutRaw writes any record, as a newer version or an attacker at the store would.
func PutRaw(key, value string) fsm.Txn { return fsm.Txn{Ops: []fsm.Op{fsm.Put(key, []byte(value))}} }

// Networks counts the networks that the limiter remembers.
func (s *Service) Networks() int { return s.Login.limiter.recent.Len() }

// AttemptUser is the hash that stands for a user in keys of attempts.
func AttemptUser(user string) string { return attemptUser(user) }
