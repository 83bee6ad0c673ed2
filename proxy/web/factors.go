package web

import (
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/boombuler/barcode/qr"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

const (
	appPath     = "/web/account/factors/app"
	passkeyPath = "/web/account/factors/passkey" //nolint:gosec // a path
)

// app is what a user needs to add an authenticator app.
type app struct {
	QR     *code
	Groups []string // of the secret, four characters each
	Link   template.URL
}

// code is a QR code as an SVG path of dark modules.
type code struct {
	Size int // with the quiet zone
	Path string
}

// quietZone is the light border that readers need, in modules (ISO/IEC 18004,
// section 6.3.8).
const quietZone = 4

func qrCode(text string) (*code, error) {
	symbol, err := qr.Encode(text, qr.L, qr.Auto) // a screen has no scratches: few, large modules
	if err != nil {
		return nil, err
	}
	size := symbol.Bounds().Dx()
	var path strings.Builder
	for y := range size {
		for x := 0; x < size; x++ {
			run := 0
			for x+run < size && dark(symbol.At(x+run, y)) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+quietZone, y+quietZone, run, run)
				x += run
			}
		}
	}
	return &code{Size: size + 2*quietZone, Path: path.String()}, nil
}

func dark(c interface{ RGBA() (r, g, b, a uint32) }) bool {
	r, _, _, _ := c.RGBA()
	return r < 0x8000
}

// appOf makes what shows an offer's secret; nil: there is none.
func appOf(o *auth.Offer) (*app, error) {
	if o.TOTPSecret == "" {
		return nil, nil //nolint:nilnil // nothing to show is no failure
	}
	if !strings.HasPrefix(o.TOTPURI, "otpauth://totp/") {
		return nil, errors.New("an offer's address is not of the kind that authenticator apps read")
	}
	picture, err := qrCode(o.TOTPURI)
	if err != nil {
		return nil, fmt.Errorf("draw a QR code: %w", err)
	}
	// The address is of our own making, and html/template knows no such scheme.
	a := &app{QR: picture, Link: template.URL(o.TOTPURI)} //nolint:gosec // checked above
	for secret := o.TOTPSecret; secret != ""; {
		n := min(4, len(secret))
		a.Groups, secret = append(a.Groups, secret[:n]), secret[n:]
	}
	return a, nil
}

// passkeyOf makes the button for an offer; nil: passkeys are impossible here.
func passkeyOf(o *auth.Offer, label, ready string) *passkey {
	if len(o.WebAuthn) == 0 {
		return nil
	}
	return &passkey{Mode: "create", Options: string(o.WebAuthn), Label: label, Ready: ready}
}

// addForm is what app.html and passkey.html show.
type addForm struct {
	form
	App     *app
	Passkey *passkey
	Name    string
	Cluster string
	Mode    api.SecondFactor // why there may be nothing to add
}

// adding is one of the two pages that add a second factor.
type adding struct {
	path, page, title, done string
	answer                  func(r *http.Request) auth.FactorAnswer
	missing                 string
}

func addingApp() adding {
	return adding{
		path: appPath, page: "app", title: "Add an authenticator app", done: "app",
		answer:  func(r *http.Request) auth.FactorAnswer { return auth.FactorAnswer{TOTP: answer(r).TOTP} },
		missing: "Enter the code that the app shows.",
	}
}

func addingPasskey() adding {
	return adding{
		path: passkeyPath, page: "passkey", title: "Add a passkey", done: "passkey",
		answer:  func(r *http.Request) auth.FactorAnswer { return auth.FactorAnswer{WebAuthn: answer(r).WebAuthn} },
		missing: "Press “Create passkey”: your browser then asks you where to keep it.",
	}
}

func (s *site) showAdd(a adding) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) {
		s.offerAgain(w, r, v, a, http.StatusOK, addForm{})
	}
}

// offerAgain shows the page with a new offer, which only a login not long ago gets.
// A form that came with an offer made in time needs no other, however long ago.
func (s *site) offerAgain(w http.ResponseWriter, r *http.Request, v *visit, a adding, status int, f addForm) {
	if s.age(v) > auth.FreshFor {
		toLogin(w, r)
		return
	}
	o, err := s.opts.Accounts.OfferFactor(r.Context(), v.cookie)
	if api.IsCode(err, api.CodeUnauthenticated) { // not fresh any more, or ended meanwhile
		toLogin(w, r)
		return
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	s.renderAdd(w, r, v, a, status, o, f)
}

func (s *site) renderAdd(w http.ResponseWriter, r *http.Request, v *visit, a adding, status int, o *auth.Offer, f addForm) {
	var err error
	if a.path == appPath {
		f.App, err = appOf(o)
	} else {
		f.Passkey = passkeyOf(o, "Create passkey", "")
		if f.Passkey != nil {
			f.Passkey.Primary = true
		}
	}
	if err == nil {
		f.Carried, err = v.key.carry(a.path, o)
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	f.Token, f.Action, f.Cluster, f.Mode = v.key.token(a.path), a.path, s.opts.ClusterName, v.SecondFactor
	s.show(w, status, page{name: a.page, title: titled(a.title, f.Error), visit: v, body: f, script: f.Passkey != nil})
}

func (s *site) takeAdd(a adding) handler {
	return func(w http.ResponseWriter, r *http.Request, v *visit) {
		o, f := &auth.Offer{}, addForm{Name: strings.TrimSpace(r.PostForm.Get("name"))}
		if !v.key.carried(a.path, r.PostForm.Get(carriedField), o) {
			f.Error = "This page had grown stale. Please begin again, with what it shows now."
			s.offerAgain(w, r, v, a, http.StatusForbidden, f)
			return
		}
		given := a.answer(r)
		if given.Empty() {
			f.Error, f.Field = a.missing, "code"
			s.renderAdd(w, r, v, a, http.StatusBadRequest, o, f)
			return
		}
		err := s.opts.Accounts.AddFactor(r.Context(), v.cookie, auth.Enrolment{State: o.State, Name: f.Name, FactorAnswer: given}, clientAddr(r))
		code := api.CodeOf(err)
		switch code {
		case "":
			done(w, r, accountPath, a.done)
		case api.CodeSecondFactor:
			f.Error, f.Field = sentence(err.Error()), "code"
			s.renderAdd(w, r, v, a, http.StatusBadRequest, o, f)
		case api.CodeInvalid, api.CodeExists, api.CodeRateLimited, api.CodeUnavailable: // the first two mostly of the name
			f.Error = sentence(err.Error())
			s.renderAdd(w, r, v, a, code.HTTPStatus(), o, f)
		case api.CodeConflict:
			f.Error = sentence(err.Error())
			s.offerAgain(w, r, v, a, http.StatusConflict, f)
		default:
			s.problem(w, r, err)
		}
	}
}

func (s *site) showRemove(w http.ResponseWriter, r *http.Request, v *visit) {
	factors, err := s.opts.Accounts.Factors(r.Context(), v.cookie)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	for _, f := range factors {
		if f.ID != r.PathValue("id") {
			continue
		}
		path := r.URL.Path
		s.show(w, http.StatusOK, page{name: "remove", title: "Remove a second factor", visit: v, body: map[string]any{
			"Token": v.key.token(path), "Action": path, "Name": factorName(f), "Kind": f.Kind, "Last": len(factors) == 1,
		}})
		return
	}
	s.problem(w, r, api.Errorf(api.CodeNotFound, "this second factor is not yours, or was removed already"))
}

func (s *site) takeRemove(w http.ResponseWriter, r *http.Request, v *visit) {
	err := s.opts.Accounts.RemoveFactor(r.Context(), v.cookie, r.PathValue("id"), clientAddr(r))
	if api.IsCode(err, api.CodeUnauthenticated) { // as in offerAgain
		toLogin(w, r)
		return
	}
	if api.IsCode(err, api.CodeForbidden) {
		s.notice(w, r, http.StatusForbidden, notice{
			Title: "It has to stay for now", Error: true, Lines: []string{sentence(err.Error())},
			Link: accountPath, LinkText: "Back to your account",
		})
		return
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	done(w, r, accountPath, "removed")
}
