package client

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// TestServerThatOnlyListensDoesNotAnswer: it takes the connection and is silent.
func TestServerThatOnlyListensDoesNotAnswer(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	addr := l.Addr().String()
	ask := func(ctx context.Context, patience time.Duration) error {
		c, err := NewWeb(addr, WebOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.http.Transport.(*http.Transport).TLSHandshakeTimeout = patience //nolint:forcetypeassert // it is one
		_, err = c.Ping(ctx)
		return err
	}
	for name, err := range map[string]error{"handshake": ask(t.Context(), 20*time.Millisecond), "dial": explainTLS(addr, "127.0.0.1", &net.OpError{Op: "dial", Err: timeoutError{}})} {
		if !api.IsCode(err, api.CodeUnavailable) || err.Error() != addr+" does not answer" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
