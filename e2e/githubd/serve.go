package githubd

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// codeLife is GitHub's.
const codeLife = 10 * time.Minute

func (g *GitHub) routes() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /login/oauth/authorize", g.authorizePage)
	m.HandleFunc("POST /login/oauth/authorize", g.authorize)
	m.HandleFunc("POST /login/oauth/access_token", g.accessToken)
	m.HandleFunc("GET /user", g.with(func(w http.ResponseWriter, _ *http.Request, t token) {
		for _, u := range g.users {
			if u.ID == t.user {
				reply(w, http.StatusOK, map[string]any{"id": u.ID, "login": u.Login, "type": "User", "node_id": fmt.Sprintf("U_%d", u.ID), "name": nil, "email": nil})
				return
			}
		}
		reply(w, http.StatusUnauthorized, message("Bad credentials"))
	}))
	m.HandleFunc("GET /user/teams", g.with(func(w http.ResponseWriter, r *http.Request, t token) {
		if !strings.Contains(t.scope, "read:org") {
			reply(w, http.StatusForbidden, message("Must have the read:org scope"))
			return
		}
		g.page(w, r, g.teamsOf(t.user))
	}))
	m.HandleFunc("GET /user/orgs", g.with(func(w http.ResponseWriter, r *http.Request, t token) { g.page(w, r, g.orgsOf(t.user)) }))
	m.HandleFunc("GET /orgs/{org}", func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if o := g.orgCalled(r.PathValue("org")); o != nil {
			reply(w, http.StatusOK, o.json())
			return
		}
		reply(w, http.StatusNotFound, message("Not Found"))
	})
	m.HandleFunc("DELETE /applications/{client}/token", g.revoke)
	m.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusNotFound, message("Not Found")) })
	return m
}

// answer serves a request, well or not.
func (g *GitHub) answer(w http.ResponseWriter, r *http.Request, fault FaultKind) {
	h := w.Header()
	switch fault {
	case RateLimit:
		h.Set("X-RateLimit-Limit", "60")
		h.Set("X-RateLimit-Remaining", "0")
		h.Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(20*time.Minute).Unix(), 10))
		reply(w, http.StatusForbidden, message("API rate limit exceeded"))
	case Secondary:
		h.Set("Retry-After", "60")
		reply(w, http.StatusForbidden, message("You have exceeded a secondary rate limit. Please wait a few minutes before you try again."))
	case Error500:
		http.Error(w, "<h1>This page is taking too long to load.</h1>", http.StatusInternalServerError)
	case BadJSON:
		h.Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><title>Unicorn!</title>`)
	case Truncated:
		h.Set("Content-Type", "application/json; charset=utf-8")
		fmt.Fprint(w, `[{"id": 1, "slug": "de`)
	case None, Hang:
		h.Set("X-RateLimit-Limit", "5000")
		h.Set("X-RateLimit-Remaining", "4999")
		g.mux.ServeHTTP(w, r)
	}
}

func message(text string) map[string]any { return map[string]any{"message": text} }

func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b) // who has gone doesn't mind
}

// with asks for a token, and holds the lock.
func (g *GitHub) with(next func(http.ResponseWriter, *http.Request, token)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		kind, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		g.mu.Lock()
		defer g.mu.Unlock()
		t, found := g.tokens[value]
		if !found || !strings.EqualFold(kind, "Bearer") && !strings.EqualFold(kind, "token") {
			reply(w, http.StatusUnauthorized, message("Bad credentials"))
			return
		}
		next(w, r, t)
	}
}

// page shows one page of a list, and in Link where the others are.
func (g *GitHub) page(w http.ResponseWriter, r *http.Request, all []any) {
	q := r.URL.Query()
	size, err := strconv.Atoi(cmp.Or(q.Get("per_page"), "30"))
	if err != nil || size < 1 {
		size = 30
	}
	size = min(size, g.o.MaxPage)
	n, err := strconv.Atoi(cmp.Or(q.Get("page"), "1"))
	if err != nil || n < 1 {
		n = 1
	}
	last := max(1, (len(all)+size-1)/size)
	prefix, _ := r.Context().Value(prefixKey{}).(string)
	at := func(n int, rel string) string {
		return fmt.Sprintf(`<https://%s%s%s?per_page=%d&page=%d>; rel=%q`, r.Host, prefix, r.URL.Path, size, n, rel)
	}
	var links []string
	if n > 1 {
		links = append(links, at(n-1, "prev"))
	}
	if n < last {
		links = append(links, at(n+1, "next"), at(last, "last"))
	}
	if n > 1 {
		links = append(links, at(1, "first"))
	}
	if len(links) > 0 {
		w.Header().Set("Link", strings.Join(links, ", "))
	}
	from, to := min(len(all), (n-1)*size), min(len(all), n*size)
	if page := all[from:to]; len(page) > 0 {
		reply(w, http.StatusOK, page)
		return
	}
	reply(w, http.StatusOK, []any{})
}

var authorizeTemplate = template.Must(template.New("authorize").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Authorize application</title>
<main><h1>Authorize {{.Client}}</h1>
<p>It wants to read your organizations and teams ({{.Scope}}).</p>
<form method="post" action="/login/oauth/authorize">
{{range $name, $value := .Hidden}}<input type="hidden" name="{{$name}}" value="{{$value}}">
{{end}}<label>Signed in as <input id="user" name="login" value="{{.User}}" autocomplete="off"></label>
<button id="authorize" name="answer" value="authorize">Authorize</button>
<button id="cancel" name="answer" value="cancel">Cancel</button>
</form></main></html>
`))

// asked are the parameters of an authorization request that the page carries on.
func asked() []string {
	return []string{"client_id", "redirect_uri", "state", "scope", "code_challenge", "code_challenge_method"}
}

// authorization judges a request to authorize, and sends the browser away where GitHub does.
func (g *GitHub) authorization(w http.ResponseWriter, r *http.Request) (redirect string, ok bool) {
	if r.FormValue("client_id") != g.o.ClientID || len(g.o.Callbacks) == 0 {
		http.Error(w, "there is no such OAuth app", http.StatusNotFound)
		return "", false
	}
	redirect = cmp.Or(r.FormValue("redirect_uri"), g.o.Callbacks[0])
	for _, c := range g.o.Callbacks {
		if redirect == c || strings.HasPrefix(redirect, strings.TrimSuffix(c, "/")+"/") {
			return redirect, true
		}
	}
	g.back(w, r, g.o.Callbacks[0], url.Values{
		"error":             {"redirect_uri_mismatch"},
		"error_description": {"The redirect_uri MUST match the registered callback URL for this application."},
	})
	return "", false
}

// back sends the browser to the app. See Other: what was posted here is not posted there.
func (g *GitHub) back(w http.ResponseWriter, r *http.Request, to string, params url.Values) {
	if state := r.FormValue("state"); state != "" {
		params.Set("state", state)
	}
	separator := "?"
	if strings.Contains(to, "?") {
		separator = "&"
	}
	http.Redirect(w, r, to+separator+params.Encode(), http.StatusSeeOther)
}

func (g *GitHub) authorizePage(w http.ResponseWriter, r *http.Request) {
	if _, ok := g.authorization(w, r); !ok {
		return
	}
	hidden := map[string]string{}
	for _, name := range asked() {
		if v := r.FormValue(name); v != "" {
			hidden[name] = v
		}
	}
	g.mu.Lock()
	first := ""
	if len(g.users) > 0 {
		first = g.users[0].Login
	}
	g.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_ = authorizeTemplate.Execute(w, map[string]any{"Client": g.o.ClientID, "Scope": r.FormValue("scope"), "Hidden": hidden, "User": first})
}

func (g *GitHub) authorize(w http.ResponseWriter, r *http.Request) {
	redirect, ok := g.authorization(w, r)
	if !ok {
		return
	}
	g.mu.Lock()
	u := g.userCalled(r.FormValue("login"))
	g.mu.Unlock()
	challenge, method := r.FormValue("code_challenge"), r.FormValue("code_challenge_method")
	switch {
	case r.FormValue("answer") != "authorize":
		g.back(w, r, redirect, url.Values{"error": {"access_denied"}, "error_description": {"The user has denied your application access."}})
		return
	case u == nil:
		http.Error(w, "there is no such user", http.StatusUnprocessableEntity)
		return
	case challenge != "" && method != "S256":
		http.Error(w, "code_challenge_method must be S256", http.StatusBadRequest)
		return
	}
	code := random("")
	g.mu.Lock()
	g.grants[code] = grant{u.ID, redirect, challenge, r.FormValue("scope"), time.Now().Add(codeLife)}
	g.mu.Unlock()
	g.back(w, r, redirect, url.Values{"code": {code}})
}

// accessToken answers mistakes with status 200, as GitHub does.
func (g *GitHub) accessToken(w http.ResponseWriter, r *http.Request) {
	answer := func(values url.Values) {
		if !strings.Contains(r.Header.Get("Accept"), "json") {
			w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
			fmt.Fprint(w, values.Encode())
			return
		}
		flat := map[string]string{}
		for name := range values {
			flat[name] = values.Get(name)
		}
		reply(w, http.StatusOK, flat)
	}
	refuse := func(code, why string) { answer(url.Values{"error": {code}, "error_description": {why}}) }
	if r.FormValue("client_id") != g.o.ClientID || !same(r.FormValue("client_secret"), g.o.ClientSecret) {
		refuse("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	code := r.FormValue("code")
	granted, found := g.grants[code]
	delete(g.grants, code)
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	switch {
	case !found || time.Now().After(granted.until):
		refuse("bad_verification_code", "The code passed is incorrect or expired.")
	case r.FormValue("redirect_uri") != "" && r.FormValue("redirect_uri") != granted.redirect:
		refuse("redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL for this application.")
	case granted.challenge != "" && !same(base64.RawURLEncoding.EncodeToString(sum[:]), granted.challenge):
		refuse("bad_verification_code", "The code verifier does not match the challenge.")
	default:
		value := random("gho_")
		g.tokens[value] = token{granted.user, granted.scope}
		answer(url.Values{"access_token": {value}, "token_type": {"bearer"}, "scope": {granted.scope}})
	}
}

func (g *GitHub) revoke(w http.ResponseWriter, r *http.Request) {
	id, password, _ := r.BasicAuth()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&body); err != nil {
		reply(w, http.StatusUnprocessableEntity, message("Validation Failed"))
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if id != g.o.ClientID || r.PathValue("client") != id || !same(password, g.o.ClientSecret) {
		reply(w, http.StatusUnauthorized, message("Bad credentials"))
		return
	}
	if _, found := g.tokens[body.AccessToken]; !found {
		reply(w, http.StatusNotFound, message("Not Found"))
		return
	}
	delete(g.tokens, body.AccessToken)
	w.WriteHeader(http.StatusNoContent)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
