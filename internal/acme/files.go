package acme

import (
	"context"
	"errors"

	"github.com/caddyserver/certmagic"
)

// Store implements certmagic.Storage.
func (s *Storage) Store(context.Context, string, []byte) error { return errors.ErrUnsupported }

// Load implements certmagic.Storage.
func (s *Storage) Load(context.Context, string) ([]byte, error) { return nil, errors.ErrUnsupported }

// Delete implements certmagic.Storage.
func (s *Storage) Delete(context.Context, string) error { return errors.ErrUnsupported }

// Exists implements certmagic.Storage.
func (s *Storage) Exists(context.Context, string) bool { return false }

// List implements certmagic.Storage.
func (s *Storage) List(context.Context, string, bool) ([]string, error) {
	return nil, errors.ErrUnsupported
}

// Stat implements certmagic.Storage.
func (s *Storage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, errors.ErrUnsupported
}
