package browser

import (
	"context"
	"fmt"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// Authenticator is a virtual one, as built into a laptop: it keeps passkeys and
// knows its owner, whose finger is always on it.
type Authenticator struct {
	b  *Browser
	id webauthn.AuthenticatorID
}

// AddAuthenticator gives the window an authenticator.
func (b *Browser) AddAuthenticator() (*Authenticator, error) {
	a := &Authenticator{b: b}
	err := a.call(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, webauthn.Enable, webauthn.EnableParams{}); err != nil {
			return err
		}
		r, err := cdp.Call(ctx, t, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{
			Options: &webauthn.VirtualAuthenticatorOptions{
				Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
				HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
			},
		})
		a.id = r.AuthenticatorID
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("add a virtual authenticator: %w", err)
	}
	return a, nil
}

func (a *Authenticator) call(f func(context.Context, *chromedp.Target) error) error {
	return a.b.do(chromedp.Func(f))
}

// Credentials are the passkeys it keeps, private keys and all.
func (a *Authenticator) Credentials() (keys []*webauthn.Credential, err error) {
	err = a.call(func(ctx context.Context, t *chromedp.Target) error {
		r, err := cdp.Call(ctx, t, webauthn.GetCredentials, webauthn.GetCredentialsParams{AuthenticatorID: a.id})
		keys = r.Credentials
		return err
	})
	return keys, err
}

// Put gives it a passkey in place of those it keeps: a copy of another, say.
func (a *Authenticator) Put(key *webauthn.Credential) error {
	// Without what this authenticator doesn't take, though it gives it.
	type credential struct {
		CredentialID         []byte  `json:"credentialId"`
		IsResidentCredential bool    `json:"isResidentCredential"`
		RpID                 string  `json:"rpId"`
		PrivateKey           []byte  `json:"privateKey"`
		UserHandle           []byte  `json:"userHandle"`
		SignCount            float64 `json:"signCount"`
	}
	type params struct {
		AuthenticatorID webauthn.AuthenticatorID `json:"authenticatorId"`
		Credential      credential               `json:"credential"`
	}
	add := cdp.Command[params, cdp.Empty]{Method: webauthn.CommandAddCredential}
	return a.call(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, webauthn.ClearCredentials, webauthn.ClearCredentialsParams{AuthenticatorID: a.id}); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, t, add, params{a.id, credential{
			key.CredentialID, key.IsResidentCredential, key.RpID, key.PrivateKey, key.UserHandle, key.SignCount,
		}})
		return err
	})
}

// Verify says whether the owner is recognised from now on.
func (a *Authenticator) Verify(recognised bool) error {
	return a.call(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: a.id, IsUserVerified: recognised})
		return err
	})
}
