package web

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

const (
	accountPath  = "/web/account"
	passwordPath = "/web/account/password" //nolint:gosec // a path
	endPath      = "/web/account/sessions/end"
	othersPath   = "/web/account/sessions/end-others"
)

// accountPage is what account.html shows.
type accountPage struct {
	Account  *Account
	By       *provider // who vouches for them; nil: a password
	Cluster  string
	Said     string
	Factors  []factorRow
	AddApp   bool
	Sessions []sessionRow
	Others   bool // there are sessions beside this one

	EndAction, EndToken       string
	OthersAction, OthersToken string
}

type factorRow struct {
	ID, Name, Kind string
	Created, Used  moment
	Unused, Locked bool
}

type sessionRow struct {
	ID, Kind, Addr   string
	This             bool
	Created, Expires moment
	Left             string
}

func (s *site) showAccount(w http.ResponseWriter, r *http.Request, v *visit) {
	var factors []api.Factor
	var by *provider
	if v.Connector == "" {
		var err error
		if factors, err = s.opts.Accounts.Factors(r.Context(), v.cookie); err != nil {
			s.problem(w, r, err)
			return
		}
	} else if p, ok := s.provider(v.Connector, ""); ok {
		by = &p
	} else {
		by = &provider{Name: v.Connector, Display: v.Connector}
	}
	sessions, err := s.opts.Accounts.Sessions(r.Context(), v.cookie)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	p := accountPage{
		Account: v.Account, By: by, Cluster: s.opts.ClusterName, Said: said(w, r), AddApp: v.SecondFactor != api.SecondFactorOff && v.SecondFactor != api.SecondFactorWebAuthn,
		EndAction: endPath, EndToken: v.key.token(endPath), OthersAction: othersPath, OthersToken: v.key.token(othersPath),
	}
	for _, f := range factors {
		p.AddApp = p.AddApp && f.Kind != api.FactorTOTP
		p.Factors = append(p.Factors, factorRow{
			ID: f.ID, Name: factorName(f), Kind: factorKind(f.Kind),
			Created: s.moment(f.Created), Used: s.moment(f.LastUsed), Unused: f.LastUsed.IsZero(), Locked: !f.Locked.IsZero(),
		})
	}
	// The newest first: that is where something unexpected would be.
	sessions = slices.SortedStableFunc(slices.Values(sessions), func(a, b api.Session) int { return b.Created.Compare(a.Created) })
	for _, o := range sessions {
		row := sessionRow{
			ID: o.ID, Kind: "tsh, in a terminal", Addr: cmp.Or(o.ClientAddr, "an unknown address"), This: o.ID == v.SessionID,
			Created: s.moment(o.Created), Expires: s.moment(o.Expires), Left: left(o.Expires.Sub(s.opts.Clock())),
		}
		switch o.Kind {
		case api.SessionWeb:
			row.Kind = "Web browser"
		case api.SessionSigned:
			row.Kind = "Kubeconfig, made by an administrator"
		}
		p.Others = p.Others || !row.This
		p.Sessions = append(p.Sessions, row)
	}
	s.show(w, http.StatusOK, page{name: "account", title: "Your account", visit: v, body: p})
}

// factorName is the user's name for a second factor, or its kind for one that was
// given none.
func factorName(f api.Factor) string {
	kind := factorKind(f.Kind)
	if f.Name == "" || strings.EqualFold(f.Name, kind) {
		return kind
	}
	return f.Name
}

func factorKind(kind string) string {
	switch kind {
	case api.FactorTOTP:
		return "Authenticator app"
	case api.FactorWebAuthn:
		return "Passkey"
	default:
		return kind
	}
}

func (s *site) endSession(w http.ResponseWriter, r *http.Request, v *visit) {
	id := r.PostForm.Get("id")
	if id == v.SessionID {
		s.takeLogout(w, r, v)
		return
	}
	if err := s.opts.Accounts.EndSession(r.Context(), v.cookie, id, clientAddr(r)); err != nil {
		s.problem(w, r, err)
		return
	}
	done(w, r, accountPath, "ended")
}

func (s *site) endOthers(w http.ResponseWriter, r *http.Request, v *visit) {
	if err := s.opts.Accounts.EndOtherSessions(r.Context(), v.cookie, clientAddr(r)); err != nil {
		s.problem(w, r, err)
		return
	}
	done(w, r, accountPath, "others")
}

// toAccount is for who reloads a page that was the answer to a form.
func toAccount(w http.ResponseWriter, r *http.Request, _ *visit) {
	http.Redirect(w, r, accountPath, http.StatusSeeOther)
}

// passwordForm is what password.html shows.
type passwordForm struct {
	form
	User     string
	Min, Max int
	TOTP     bool
	Passkey  *passkey
}

func (s *site) showPassword(w http.ResponseWriter, r *http.Request, v *visit) {
	c, err := s.opts.Accounts.PasswordChallenge(r.Context(), v.cookie)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	s.renderPassword(w, r, v, http.StatusOK, c, form{})
}

func (s *site) renderPassword(w http.ResponseWriter, r *http.Request, v *visit, status int, c *auth.Challenge, f form) {
	carried, err := v.key.carry(passwordPath, c)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	f.Token, f.Action, f.Carried = v.key.token(passwordPath), passwordPath, carried
	body := passwordForm{form: f, User: v.User, Min: auth.MinPasswordChars, Max: auth.MaxPasswordChars}
	if body.TOTP, body.Passkey = challengeParts(c, "Change password with a passkey"); body.Passkey != nil {
		body.Passkey.Primary = !body.TOTP
	}
	s.show(w, status, page{
		name: "password", title: titled("Change your password", f.Error), visit: v, body: body, script: body.Passkey != nil,
	})
}

func (s *site) takePassword(w http.ResponseWriter, r *http.Request, v *visit) {
	c := &auth.Challenge{}
	if !v.key.carried(passwordPath, r.PostForm.Get(carriedField), c) {
		s.showPassword(w, r, v)
		return
	}
	old, next, given := r.PostForm.Get("old"), r.PostForm.Get("password"), answer(r)
	if given.WebAuthn != nil {
		given.State = c.State // a code needs none, so it may come late
	}
	f := form{}
	switch {
	case old == "":
		f.Error, f.Field = "Enter your present password.", "old"
	case next == "":
		f.Error, f.Field = "Enter a new password.", "password"
	case next != r.PostForm.Get("repeat"):
		f.Error, f.Field = "The two entries differ. Enter the same new password twice.", "repeat"
	case len(c.Methods) > 0 && given.Empty():
		f.Error, f.Field = missingFactor(c), "code"
	}
	if f.Error != "" {
		s.renderPassword(w, r, v, http.StatusBadRequest, c, f)
		return
	}
	err := s.opts.Accounts.ChangePassword(r.Context(), v.cookie, old, next, given, clientAddr(r))
	code := api.CodeOf(err)
	switch code {
	case "":
		done(w, r, accountPath, "password")
		return
	case api.CodeForbidden:
		f.Field = "old"
		if given.WebAuthn != nil { // or the passkey has been locked, and nothing is left
			fresh, gone := s.opts.Accounts.PasswordChallenge(r.Context(), v.cookie)
			if gone != nil {
				s.problem(w, r, err)
				return
			}
			c = fresh
		}
	case api.CodeInvalid:
		f.Field = "password"
	case api.CodeSecondFactor:
		f.Field = "code"
		leftOf(c, err)
	case api.CodeConflict: // the challenge is spent: another
		if c, err = s.opts.Accounts.PasswordChallenge(r.Context(), v.cookie); err != nil {
			s.problem(w, r, err)
			return
		}
		err = api.Errorf(api.CodeConflict, "that took too long, or was sent twice: please enter it again")
	case api.CodeRateLimited, api.CodeUnavailable: // nothing of what was entered is wrong
	default:
		s.problem(w, r, err)
		return
	}
	f.Error = sentence(err.Error())
	s.renderPassword(w, r, v, code.HTTPStatus(), c, f)
}

// missingFactor says what to give.
func missingFactor(c *auth.Challenge) string {
	if slices.Contains(c.Methods, api.FactorTOTP) {
		return "Enter the code that your authenticator app shows."
	}
	return "Use your passkey: press the button."
}

// sessionLength is a duration as people say it.
func sessionLength(d time.Duration) string {
	if d <= 0 {
		return "as long as your roles allow"
	}
	return "up to " + inWords(d)
}
