package auth

import "github.com/sallyport-dev/sallyport/fsm"

// Pin is the part of a login's transaction that remembers organizations.
func (s *Service) Pin(v fsm.View, connector string, pins map[string]int64) (fsm.Txn, error) {
	return s.Connectors.pin(v, connector, pins)
}
