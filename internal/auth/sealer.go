package auth

// Sealer seals values of others' records with the cluster's data key.
type Sealer struct {
	db   DB
	keys *keys
}

// Sealer for records that are not this package's, such as ACME's account keys.
func (s *Service) Sealer() Sealer { return Sealer{s.base.db, s.Authorities.keys} }

// Seal encrypts plaintext so that it opens only as the value of the record of that key.
// An error with CodeUnavailable: the cluster has no data key yet.
func (s Sealer) Seal(recordKey string, plaintext []byte) ([]byte, error) {
	ring, err := s.keys.ring(s.db.View())
	if err != nil {
		return nil, err
	}
	return ring.Seal(recordKey, plaintext)
}

// Open is the inverse of Seal.
func (s Sealer) Open(recordKey string, sealed []byte) ([]byte, error) {
	ring, err := s.keys.ring(s.db.View())
	if err != nil {
		return nil, err
	}
	return ring.Open(recordKey, sealed)
}
