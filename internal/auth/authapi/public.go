package authapi

import (
	"encoding/json"
	"net/http"
	"net/netip"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// PathPasswordToken is where invite links are looked up (GET …/TOKEN) and
// redeemed (PUT).
const PathPasswordToken = "/webapi/users/password/token" //nolint:gosec // a path, no credential

// RedeemRequest sets a first password and, with State, a second factor. The
// names are Teleport's.
type RedeemRequest struct {
	Token        string          `json:"token"`
	Password     []byte          `json:"password"`        // base64 in JSON
	State        string          `json:"state,omitempty"` // of the offer that the page makes
	SecondFactor string          `json:"second_factor_token,omitempty"`
	DeviceName   string          `json:"deviceName,omitempty"`
	WebAuthn     json.RawMessage `json:"webauthnCreationResponse,omitempty"`
}

// RedeemResponse says whose password it is now.
type RedeemResponse struct {
	User string `json:"user"`
}

// servePing tells what holds now: the preference and the connectors may change at
// any time. It asks the store alone, never an identity provider.
func (h *Handler) servePing(r *http.Request) (any, error) {
	ping := h.ping
	ping.Auth.Connectors = h.auth.Connectors.Public()
	connector := h.auth.Connectors.Default()
	switch name := r.PathValue("connector"); name {
	case "":
	case api.AuthLocal:
		connector = nil
	default:
		named, err := h.auth.Connectors.Named(name)
		if err != nil {
			return nil, err
		}
		connector = named
	}
	if connector != nil {
		ping.Auth.Type, ping.Auth.Connector = connector.Kind, connector
	}
	doc, err := h.auth.Preference.Get()
	if err != nil { // nobody logs in by one that can't be read; tsh should not ask for a password alone
		ping.Auth.SecondFactor = api.SecondFactorOn
		return ping, nil //nolint:nilerr // the rest is worth answering: who logs in is told
	}
	ping.Auth.SecondFactor = doc.Spec.SecondFactor
	if id := doc.Spec.WebAuthn.RPID; id != "" && ping.Auth.SecondFactor != api.SecondFactorOff {
		ping.Auth.WebAuthn = &api.PingWebAuthn{RPID: id}
	}
	return ping, nil
}

// loginCall reads the body of a login's call, and where it comes from. The address, not
// the socket, decides the exemption from limits: a request that has neither is no one's.
func loginCall[T any](r *http.Request) (req T, addr netip.Addr, err error) {
	if err := decode(r, &req); err != nil {
		return req, addr, err
	}
	c := CallerFrom(r.Context())
	if !c.Admin && !c.Addr.IsValid() {
		return req, addr, api.Errorf(api.CodeUnauthenticated, "a login without a client address is refused")
	}
	return req, c.Addr, nil
}

func (h *Handler) login(r *http.Request) (any, error) {
	req, addr, err := loginCall[api.LoginRequest](r)
	if err != nil {
		return nil, err
	}
	return h.auth.Login.Password(r.Context(), req, addr)
}

// consoleLogin begins a login of tsh. kind is that of the connector which it must name;
// "": it may name any, or none.
func (h *Handler) consoleLogin(kind string) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		req, addr, err := loginCall[api.ConsoleLoginRequest](r)
		if err != nil {
			return nil, err
		}
		if kind != "" && (req.ConnectorID == "" || req.ConnectorID == api.AuthLocal) {
			return nil, api.Errorf(api.CodeInvalid, "connector_id: name a connector of kind %s", kind)
		}
		if c, err := h.auth.Connectors.Named(req.ConnectorID); kind != "" && err == nil && c.Kind != kind {
			return nil, api.Errorf(api.CodeInvalid, "connector %q is of kind %s, not %s", c.Name, c.Kind, kind)
		}
		return h.auth.Consoles.Start(r.Context(), req, addr)
	}
}

// consoleWait answers late: after up to 20 s, or when the replica stops.
func (h *Handler) consoleWait(r *http.Request) (any, error) {
	req, addr, err := loginCall[api.ConsoleWaitRequest](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := h.waiting(r)
	defer cancel()
	return h.auth.Consoles.Wait(ctx, req, addr)
}

func (h *Handler) consoleCancel(r *http.Request) (any, error) {
	req, addr, err := loginCall[api.ConsoleWaitRequest](r)
	if err != nil {
		return nil, err
	}
	return nil, h.auth.Consoles.Cancel(r.Context(), req, addr)
}

func (h *Handler) consoleRedeem(r *http.Request) (any, error) {
	req, addr, err := loginCall[api.ConsoleRedeemRequest](r)
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
	var e *auth.Enrolment
	if req.State != "" || req.SecondFactor != "" || len(req.WebAuthn) > 0 {
		e = &auth.Enrolment{
			State: req.State, Name: req.DeviceName,
			FactorAnswer: auth.FactorAnswer{TOTP: req.SecondFactor, WebAuthn: req.WebAuthn},
		}
	}
	user, err := h.auth.Invites.Redeem(r.Context(), req.Token, string(req.Password), e, CallerFrom(r.Context()).actor())
	if err != nil {
		return nil, err
	}
	return RedeemResponse{User: user}, nil
}
