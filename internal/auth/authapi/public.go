package authapi

import (
	"net/http"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// PathPasswordToken is where invite links are looked up (GET …/TOKEN) and
// redeemed (PUT).
const PathPasswordToken = "/webapi/users/password/token" //nolint:gosec // a path, no credential

// RedeemRequest sets a first password.
type RedeemRequest struct {
	Token    string `json:"token"`
	Password []byte `json:"password"` // base64 in JSON
}

// RedeemResponse says whose password it is now.
type RedeemResponse struct {
	User string `json:"user"`
}

func (h *Handler) servePing(*http.Request) (any, error) { return h.ping, nil }

func (h *Handler) login(r *http.Request) (any, error) {
	var req api.LoginRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	addr, err := loginAddr(r)
	if err != nil {
		return nil, err
	}
	return h.auth.Login.Password(r.Context(), req, addr)
}

// loginAddr is where a login comes from. The address, not the socket, decides
// the exemption from limits: a request that has neither is no one's.
func loginAddr(r *http.Request) (netip.Addr, error) {
	c := CallerFrom(r.Context())
	if !c.Admin && !c.Addr.IsValid() {
		return netip.Addr{}, api.Errorf(api.CodeUnauthenticated, "a login without a client address is refused")
	}
	return c.Addr, nil
}

func (h *Handler) consoleLogin(r *http.Request) (any, error) {
	var req api.ConsoleLoginRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	addr, err := loginAddr(r)
	if err != nil {
		return nil, err
	}
	return h.auth.Consoles.Start(r.Context(), req, addr)
}

func (h *Handler) consoleRedeem(r *http.Request) (any, error) {
	var req api.ConsoleRedeemRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	addr, err := loginAddr(r)
	if err != nil {
		return nil, err
	}
	return h.auth.Consoles.Redeem(r.Context(), req, addr)
}

func (h *Handler) invite(r *http.Request) (any, error) {
	return h.auth.Invites.Lookup(r.Context(), r.PathValue("token"), CallerFrom(r.Context()).actor())
}

func (h *Handler) redeem(r *http.Request) (any, error) {
	var req RedeemRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	user, err := h.auth.Invites.Redeem(r.Context(), req.Token, string(req.Password), nil, CallerFrom(r.Context()).actor())
	if err != nil {
		return nil, err
	}
	return RedeemResponse{User: user}, nil
}
