package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// inviteForm is what invite.html shows.
type inviteForm struct {
	form
	User      string
	Reset     bool
	Cluster   string
	Min, Max  int
	ExpiresIn string
	Expires   time.Time
	Factor    *factorPart
}

// carriedOffer remembers when a page first showed an offer. Redeem would refuse one
// that is too old, and the page could not tell that from a wrong code.
type carriedOffer struct {
	*auth.Offer
	Shown time.Time `json:"shown"`
}

// offerLife is a little less than what an offer lives.
const offerLife = auth.OfferTTL - time.Minute

// factorPart is the part of an invite about the second factor.
type factorPart struct {
	Required bool // by the policy
	Open     bool // not folded away
	App      *app
	Passkey  *passkey
	Invalid  bool // the error is about it
}

func (s *site) showInvite(w http.ResponseWriter, r *http.Request) {
	invite, ok := s.look(w, r)
	if !ok {
		return
	}
	key, err := s.guestKey(w, r)
	if err != nil {
		s.inviteProblem(w, r, err)
		return
	}
	s.renderInvite(w, r, http.StatusOK, key, invite, nil, inviteForm{})
}

// look finds the invite of the URL, or answers why there is none.
func (s *site) look(w http.ResponseWriter, r *http.Request) (auth.Invite, bool) {
	invite, err := s.opts.Invites.Lookup(r.Context(), r.PathValue("token"), stranger(r))
	if err != nil {
		s.inviteProblem(w, r, err)
		return auth.Invite{}, false
	}
	if !invite.Expires.IsZero() && !s.opts.Clock().Before(invite.Expires) {
		s.notice(w, r, http.StatusGone, notice{
			Title: "This link has expired", Error: true,
			Lines: []string{
				"It was good until " + invite.Expires.UTC().Format("15:04 UTC on 2 January 2006") + ".",
				"Ask whoever invited you for a new one.",
			},
		})
		return auth.Invite{}, false
	}
	return invite, true
}

func (s *site) redeemInvite(w http.ResponseWriter, r *http.Request) {
	key, stale, ok := s.guestPost(w, r)
	if !ok && stale == nil {
		return
	}
	invite, found := s.look(w, r)
	if !found {
		return
	}
	if stale != nil {
		key, err := s.guestKey(w, r)
		if err != nil {
			s.inviteProblem(w, r, err)
			return
		}
		s.renderInvite(w, r, stale.status, key, invite, nil, inviteForm{form: form{Error: stale.message}})
		return
	}
	var o *carriedOffer // what the page showed; nil: no second factor, or a page of before a change of the policy
	if c := (carriedOffer{}); key.carried(r.URL.Path, r.PostForm.Get(carriedField), &c) && s.opts.Clock().Sub(c.Shown) < offerLife {
		o = &c
	}
	password, given := r.PostForm.Get("password"), auth.FactorAnswer{}
	if wantsFactor(invite) {
		given = answer(r)
	}
	f := form{}
	switch {
	case password == "":
		f.Error, f.Field = "Enter a password.", "password"
	case password != r.PostForm.Get("repeat"):
		f.Error, f.Field = "The two entries differ. Enter the same password twice.", "repeat"
	case given.Empty() && invite.SecondFactor == api.SecondFactorWebAuthn:
		f.Error, f.Field = "A passkey is needed: press “Create a passkey” first.", "passkey"
	case given.Empty() && invite.SecondFactor == api.SecondFactorOn:
		f.Error, f.Field = "A second factor is needed: enter the code of an authenticator app, or create a passkey.", "code"
	case !given.Empty() && o == nil:
		f.Error, f.Field = "This page had grown stale. Please add the second factor again, with what the page shows now.", "code"
	}
	if f.Error != "" {
		s.renderInvite(w, r, http.StatusBadRequest, key, invite, o, inviteForm{form: f})
		return
	}
	var e *auth.Enrolment
	if !given.Empty() {
		e = &auth.Enrolment{State: o.State, FactorAnswer: given}
	}
	s.redeem(w, r, key, invite, o, password, e)
}

// redeem sets the password, and the second factor if there is one.
func (s *site) redeem(w http.ResponseWriter, r *http.Request, key formKey, invite auth.Invite, o *carriedOffer, password string, e *auth.Enrolment) {
	_, err := s.opts.Invites.Redeem(r.Context(), r.PathValue("token"), password, e, stranger(r))
	f := form{}
	code := api.CodeOf(err)
	if code != "" {
		f.Error = sentence(err.Error())
	}
	switch code {
	case "":
		dropCookie(w, formCookie)
		s.render(w, http.StatusOK, "done", "Your password is set", map[string]any{
			"User": invite.User, "Cluster": s.opts.ClusterName, "Login": s.loginLine(invite.User, ""), "Factor": e != nil,
		})
	case api.CodeInvalid, api.CodeTooLarge:
		f.Field = "password"
		s.renderInvite(w, r, http.StatusBadRequest, key, invite, o, inviteForm{form: f})
	case api.CodeSecondFactor:
		f.Field = "code"
		s.renderInvite(w, r, http.StatusBadRequest, key, invite, o, inviteForm{form: f})
	case api.CodeUnavailable, api.CodeRateLimited:
		s.renderInvite(w, r, code.HTTPStatus(), key, invite, o, inviteForm{form: f})
	case api.CodeAmbiguous:
		s.notice(w, r, code.HTTPStatus(), notice{
			Title: "Your password may or may not be set", Error: true,
			Lines: []string{
				"The cluster took your password but did not confirm it in time.",
				"Try to log in with it. If that fails, open the link from your invitation again.",
			},
			Command: s.loginLine(invite.User, ""),
		})
	default:
		s.inviteProblem(w, r, err)
	}
}

// renderInvite shows the form; passwords once entered are never sent back. With o
// nil the page gets a new offer, if the policy is to have one.
func (s *site) renderInvite(w http.ResponseWriter, r *http.Request, status int, key formKey, invite auth.Invite, o *carriedOffer, f inviteForm) {
	var err error
	f.Factor, f.Carried, err = s.factorPart(r, key, invite, o, f.form)
	if err != nil {
		s.inviteProblem(w, r, err)
		return
	}
	f.User, f.Reset, f.Expires = invite.User, invite.Reset, invite.Expires.UTC()
	if !invite.Expires.IsZero() {
		f.ExpiresIn = left(invite.Expires.Sub(s.opts.Clock()))
	}
	f.Cluster, f.Min, f.Max = s.opts.ClusterName, auth.MinPasswordChars, auth.MaxPasswordChars
	f.Token, f.Action = key.token(r.URL.Path), r.URL.EscapedPath()
	title := "Choose a password"
	if f.Reset {
		title = "Choose a new password"
	}
	s.show(w, status, page{
		name: "invite", title: titled(title, f.Error), body: f, script: f.Factor != nil && f.Factor.Passkey != nil,
	})
}

// wantsFactor reports whether the policy has second factors at all.
func wantsFactor(i auth.Invite) bool {
	return i.SecondFactor != "" && i.SecondFactor != api.SecondFactorOff
}

// factorPart makes what an invite's page says of the second factor: nothing where
// the policy is off.
func (s *site) factorPart(r *http.Request, key formKey, invite auth.Invite, o *carriedOffer, f form) (*factorPart, string, error) {
	if !wantsFactor(invite) {
		return nil, "", nil
	}
	fresh := o == nil
	if fresh {
		offer, err := s.opts.Invites.Offer(r.Context(), r.PathValue("token"), stranger(r))
		if err != nil {
			return nil, "", err
		}
		o = &carriedOffer{offer, s.opts.Clock()}
	}
	p := &factorPart{
		Required: invite.SecondFactor != api.SecondFactorOptional, Invalid: f.Field == "code" || f.Field == "passkey",
		Passkey: passkeyOf(o.Offer, "Create a passkey", "The passkey is ready. It is kept once you set the password."),
	}
	if invite.SecondFactor != api.SecondFactorWebAuthn {
		var err error
		if p.App, err = appOf(o.Offer); err != nil {
			return nil, "", err
		}
	}
	if p.Passkey != nil && !fresh && !p.Invalid {
		p.Passkey.Value = r.PostForm.Get(passkeyField) // the error is another's: it need not be made again
	}
	p.Open = p.Required || p.Invalid || p.Passkey != nil && p.Passkey.Value != "" || r.PostForm.Get("code") != ""
	carried, err := key.carry(r.URL.Path, o)
	return p, carried, err
}

// inviteProblem answers for a link that does not work. Only an api.Error's
// words are for strangers.
func (s *site) inviteProblem(w http.ResponseWriter, r *http.Request, err error) {
	said := ""
	if e, ok := errors.AsType[*api.Error](err); ok {
		said = sentence(e.Message)
	}
	code := api.CodeOf(err)
	n := notice{Error: true, Lines: []string{said}}
	status := code.HTTPStatus()
	switch code {
	case api.CodeNotFound, api.CodeInvalid:
		status = http.StatusNotFound
		n.Title = "This link does not work"
		n.Lines = append(n.Lines,
			"A link is good for a short time, and once. A mail program may also have cut it: compare it with the one you were sent.")
	case api.CodeConflict:
		status = http.StatusGone
		n.Title = "This link has been used"
		n.Lines = append(n.Lines,
			"If it was you, you are ready to log in:")
		n.Command = s.loginLine("YOU", "")
	case api.CodeRateLimited, api.CodeUnavailable, api.CodeAmbiguous:
		n.Title = "Not just now"
		n.Lines = append(n.Lines, "Nothing is lost. Wait a moment, then reload this page.")
	default:
		s.opts.Logger.Error("an invite page failed", "error", err)
		status = http.StatusInternalServerError
		n.Title = "Something went wrong on our side"
		n.Lines = []string{"The log of the replica says what. Your link stays as it is: try again in a moment, or tell your administrator."}
	}
	s.notice(w, r, status, n)
}

// sentence makes an error message, which is lower case and open-ended by
// convention, fit to stand in a page.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	if c := s[0]; 'a' <= c && c <= 'z' {
		s = string(c-'a'+'A') + s[1:]
	}
	if strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}

// unit counts in words.
func unit(n int, name string) string {
	if n == 1 {
		return "1 " + name
	}
	return fmt.Sprintf("%d %ss", n, name)
}

// left says how much of a time is left, to the nearest minute, or of many hours to the
// nearest ten: what was to last 8 hours a moment ago does not last 7.
func left(d time.Duration) string {
	if minutes := d.Round(time.Minute); minutes < 2*time.Hour {
		return inWords(minutes)
	}
	d = d.Round(10 * time.Minute)
	text := unit(int(d/time.Hour), "hour")
	if rest := int(d % time.Hour / time.Minute); rest > 0 {
		text += " and " + unit(rest, "minute")
	}
	return text
}

// inWords rounds a duration down to what a person plans with.
func inWords(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return unit(int(d/time.Minute), "minute")
	default:
		return unit(int(d/time.Hour), "hour")
	}
}

// clientAddr is who sent the request, as the listener knows it: forwarded
// headers are a stranger's words.
func clientAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// stranger is who sent the request, where nobody is known yet.
func stranger(r *http.Request) auth.Actor { return auth.Actor{Addr: clientAddr(r)} }
