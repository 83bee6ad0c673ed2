package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// maxBody bounds a call's body and its answer: an item of 1 MiB in base64 and room.
const maxBody = 4 << 20

// Access says who may call a handler.
type Access int

const (
	// Members are peers that named this cluster and this server.
	Members Access = iota
	// Guests are all that hold a peer certificate, whatever cluster they are of.
	Guests
)

// Handler answers one call. The answer is encoded as JSON; an *api.Error
// reaches the caller unchanged, any other error as "internal".
type Handler func(ctx context.Context, from Peer, body []byte) (any, error)

// JSON makes a Handler of a function with typed input. Unknown fields are
// ignored (a newer replica may send more), trailing bytes are not.
func JSON[In, Out any](fn func(ctx context.Context, from Peer, in In) (Out, error)) Handler {
	return func(ctx context.Context, from Peer, body []byte) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "malformed call: %v", err)
		}
		return fn(ctx, from, in)
	}
}

// rpcServer is the HTTP/2 end of the port.
type rpcServer struct {
	port *Port
	mux  *http.ServeMux
	srv  *http.Server
	q    *queue
}

func newRPCServer(p *Port) *rpcServer {
	s := &rpcServer{port: p, mux: http.NewServeMux(), q: newQueue(p.listener.Addr())}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is done below, with our own ALPN
	s.srv = &http.Server{
		Handler:           s.mux,
		Protocols:         protocols,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       5 * time.Minute,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000}, // each write of a follower is a stream
		ErrorLog:          slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return p.ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if pc, ok := c.(*conn); ok {
				ctx = context.WithValue(ctx, peerKey{}, pc.peer)
			}
			return ctx
		},
	}
	return s
}

func (s *rpcServer) offer(c *conn) error { return s.q.offer(c) }

func (s *rpcServer) serve() {
	if err := s.srv.Serve(s.q); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		s.port.log.Error("peer rpc server stopped", "error", err)
	}
}

func (s *rpcServer) close() {
	// Calls under way get a moment to send their answer: one that is lost is "ambiguous" to its caller.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.srv.Shutdown(ctx); err != nil {
		_ = s.srv.Close() // the moment is over
	}
	_ = s.q.Close() // never fails
}

// Handle registers a call, by path ("/cluster/identify"). Before Start.
func (p *Port) Handle(path string, access Access, h Handler) {
	p.HandleHTTP("POST "+path, access, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			api.WriteError(w, api.Errorf(api.CodeTooLarge, "call of more than %d bytes, or cut off: %v", maxBody, err))
			return
		}
		from, _ := PeerFrom(r.Context())
		out, err := h(r.Context(), from, body)
		if err != nil {
			if _, ok := errors.AsType[*api.Error](err); !ok {
				p.log.Error("peer call failed", "path", path, "from", from.ID, "error", err)
			}
			api.WriteError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(out); err != nil {
			p.log.Debug("peer call: answer not sent", "path", path, "to", from.ID, "error", err)
		}
	}))
}

// HandleHTTP registers any handler (a stream, say) under a ServeMux pattern. Before Start.
func (p *Port) HandleHTTP(pattern string, access Access, h http.Handler) {
	p.rpc.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, ok := PeerFrom(r.Context())
		if !ok || (access == Members && !from.Member()) {
			api.WriteError(w, api.Errorf(api.CodeForbidden, "only members of this cluster may call %s", r.URL.Path))
			return
		}
		h.ServeHTTP(w, r)
	}))
}

// rpcPool keeps one HTTP/2 client per target.
type rpcPool struct {
	port *Port
	mu   sync.Mutex
	m    map[Target]*http.Transport
}

func newRPCPool(p *Port) *rpcPool { return &rpcPool{port: p, m: make(map[Target]*http.Transport)} }

// maxTargets bounds the pool: more than any cluster has, and gossip can name many.
const maxTargets = 64

func (p *rpcPool) get(t Target) *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if tr, ok := p.m[t]; ok {
		return tr
	}
	if len(p.m) >= maxTargets {
		for other, tr := range p.m { // any will do: it is only dialled again
			delete(p.m, other)
			tr.CloseIdleConnections()
			break
		}
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.port.dial(ctx, protoRPC, t)
		},
		IdleConnTimeout:    90 * time.Second,
		DisableCompression: true,
		// A peer whose machine is gone sends no RST: find out by pings.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	p.m[t] = tr
	return tr
}

func (p *rpcPool) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, tr := range p.m {
		delete(p.m, t)
		tr.CloseIdleConnections()
	}
}

// RoundTripper reaches a target's HandleHTTP handlers under any http:// URL host.
func (p *Port) RoundTripper(t Target) http.RoundTripper { return p.pool.get(t) }

// Call posts in to a target's handler and decodes the answer into out (nil: ignored).
// Errors are *api.Error: the handler's own; "unavailable" when nothing was
// sent, so that a retry is safe; "ambiguous" when the answer got lost.
func (p *Port) Call(ctx context.Context, t Target, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode call %s: %w", path, err)
	}
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// A call without its body does nothing, so the end of the headers is early enough.
		WroteHeaders: func() { sent.Store(true) },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://peer"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make call %s: %w", path, err)
	}
	resp, err := p.pool.get(t).RoundTrip(req)
	if err != nil {
		if !sent.Load() {
			return api.Errorf(api.CodeUnavailable, "cannot reach server %s: %w", t, err)
		}
		return api.Errorf(api.CodeAmbiguous, "server %s did not answer: %w", t, err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	if resp.StatusCode != http.StatusOK {
		return api.ReadError(resp)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return api.Errorf(api.CodeAmbiguous, "the answer of server %s was cut off: %w", t, err)
	}
	if len(answer) > maxBody {
		return api.Errorf(api.CodeAmbiguous, "the answer of server %s is larger than %d bytes", t, maxBody)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return api.Errorf(api.CodeAmbiguous, "the answer of server %s is malformed: %w", t, err)
	}
	return nil
}
