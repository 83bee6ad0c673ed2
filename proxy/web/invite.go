package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// inviteForm is what invite.html shows.
type inviteForm struct {
	User        string
	Reset       bool
	Cluster     string
	Min, Max    int
	ExpiresIn   string
	Expires     time.Time
	Token       string // of the form, not the invite's
	Action      string
	Error       string
	FieldError  bool // the error is about the password
	RepeatError bool // the error is about the second entry
}

func (s *site) showInvite(w http.ResponseWriter, r *http.Request) {
	invite, ok := s.look(w, r)
	if ok {
		s.renderInvite(w, r, http.StatusOK, invite, inviteForm{})
	}
}

// look finds the invite of the URL, or answers why there is none.
func (s *site) look(w http.ResponseWriter, r *http.Request) (Invite, bool) {
	invite, err := s.opts.Invites.Look(r.Context(), r.PathValue("token"), clientAddr(r))
	if err != nil {
		s.inviteProblem(w, err)
		return Invite{}, false
	}
	if !invite.Expires.IsZero() && !s.opts.Clock().Before(invite.Expires) {
		s.notice(w, http.StatusGone, notice{
			Title: "This link has expired", Error: true,
			Lines: []string{
				"It was good until " + invite.Expires.UTC().Format("15:04 UTC on 2 January 2006") + ".",
				"Ask whoever invited you for a new one.",
			},
		})
		return Invite{}, false
	}
	return invite, true
}

func (s *site) redeemInvite(w http.ResponseWriter, r *http.Request) {
	if !s.fromOurPage(r) {
		s.notice(w, http.StatusForbidden, notice{
			Title: "This was not sent by our page", Error: true,
			Lines: []string{
				"Your browser says that another site sent this form, so nothing was changed.",
				"Open the link from your invitation again and fill in the form there.",
			},
		})
		return
	}
	parseErr := parseForm(w, r)
	if parseErr == nil && !hasFormToken(r) {
		// Either a forgery, or the page was open twice and the other one has set
		// the cookie anew. The fresh page helps only the latter.
		parseErr = &formError{http.StatusForbidden, "This page had grown stale. Please enter the password again."}
	}
	invite, ok := s.look(w, r)
	if !ok {
		return
	}
	if parseErr != nil {
		s.renderInvite(w, r, parseErr.status, invite, inviteForm{Error: parseErr.message})
		return
	}
	password := r.PostForm.Get("password")
	switch {
	case password == "":
		s.renderInvite(w, r, http.StatusBadRequest, invite, inviteForm{Error: "Enter a password.", FieldError: true})
		return
	case password != r.PostForm.Get("repeat"):
		s.renderInvite(w, r, http.StatusBadRequest, invite,
			inviteForm{Error: "The two entries differ. Enter the same password twice.", RepeatError: true})
		return
	}
	err := s.opts.Invites.Redeem(r.Context(), r.PathValue("token"), password, nil, clientAddr(r))
	switch code := api.CodeOf(err); code {
	case "":
		dropFormCookie(w)
		s.render(w, http.StatusOK, "done", "Your password is set", map[string]any{
			"User": invite.User, "Cluster": s.opts.ClusterName, "Login": s.loginLine(invite.User),
		})
	case api.CodeInvalid, api.CodeTooLarge:
		s.renderInvite(w, r, http.StatusBadRequest, invite, inviteForm{Error: sentence(err.Error()), FieldError: true})
	case api.CodeUnavailable, api.CodeRateLimited:
		w.Header().Set("Retry-After", "10")
		s.renderInvite(w, r, code.HTTPStatus(), invite, inviteForm{Error: sentence(err.Error())})
	case api.CodeAmbiguous:
		s.notice(w, code.HTTPStatus(), notice{
			Title: "Your password may or may not be set", Error: true,
			Lines: []string{
				"The cluster took your password but did not confirm it in time.",
				"Try to log in with it. If that fails, open the link from your invitation again.",
			},
			Command: s.loginLine(invite.User),
		})
	default:
		s.inviteProblem(w, err)
	}
}

// formError is a form that could not be read, in words for the user.
type formError struct {
	status  int
	message string
}

func parseForm(w http.ResponseWriter, r *http.Request) *formError {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(ct), "application/x-www-form-urlencoded") {
		return &formError{http.StatusUnsupportedMediaType, "The form arrived in a shape that no browser sends. Please try again."}
	}
	err := r.ParseForm()
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &formError{http.StatusRequestEntityTooLarge, "That was far too long for a password. Please choose a shorter one."}
	}
	if err != nil {
		return &formError{http.StatusBadRequest, "The form arrived damaged. Please try again."}
	}
	return nil
}

// renderInvite shows the form; passwords once entered are never sent back.
func (s *site) renderInvite(w http.ResponseWriter, r *http.Request, status int, invite Invite, f inviteForm) {
	token, err := s.formToken(w, r)
	if err != nil {
		s.inviteProblem(w, fmt.Errorf("make a form token: %w", err))
		return
	}
	f.User, f.Reset, f.Expires = invite.User, invite.Reset, invite.Expires.UTC()
	if !invite.Expires.IsZero() {
		f.ExpiresIn = inWords(invite.Expires.Sub(s.opts.Clock()))
	}
	f.Cluster, f.Min, f.Max = s.opts.ClusterName, s.opts.MinPassword, s.opts.MaxPassword
	f.Token, f.Action = token, r.URL.EscapedPath()
	title := "Choose a password"
	if f.Reset {
		title = "Choose a new password"
	}
	if f.Error != "" {
		title = "Error: " + title // what a screen reader says first
	}
	s.render(w, status, "invite", title, f)
}

// inviteProblem answers for a link that does not work. Only an api.Error's
// words are for strangers.
func (s *site) inviteProblem(w http.ResponseWriter, err error) {
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
		n.Command = s.loginLine("YOU")
	case api.CodeRateLimited, api.CodeUnavailable, api.CodeAmbiguous:
		w.Header().Set("Retry-After", "10")
		n.Title = "Not just now"
		n.Lines = append(n.Lines, "Nothing is lost. Wait a moment, then reload this page.")
	default:
		s.opts.Logger.Error("an invite page failed", "error", err)
		status = http.StatusInternalServerError
		n.Title = "Something went wrong on our side"
		n.Lines = []string{"The log of the replica says what. Your link stays as it is: try again in a moment, or tell your administrator."}
	}
	s.notice(w, status, n)
}

// sentence makes an error message, which is lower case and open-ended by
// convention, fit to stand in a page.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}

// inWords rounds a duration down to what a person plans with.
func inWords(d time.Duration) string {
	unit := func(n int, name string) string {
		if n == 1 {
			return "1 " + name
		}
		return fmt.Sprintf("%d %ss", n, name)
	}
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
