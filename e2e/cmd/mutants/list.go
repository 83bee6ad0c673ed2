package main

import "slices"

// mutants are the checks that single sign-on stands on.
func mutants() []mutant {
	return slices.Concat(samlMutants(), oidcMutants(), githubMutants(), authMutants())
}

// gone stands in the place of a call that gives an error.
const gone = "error(nil)"

func samlMutants() []mutant {
	const pkg = "sso/saml"
	in := func(file, name, old, with string) mutant {
		return mutant{name: name, pkg: pkg, edits: []edit{{file, old, with}}}
	}
	return []mutant{
		in("saml.go", "RelayState", "len(state) != 1 || state[0] != f.ID", "len(state) > 9"),
		{name: "DOCTYPE", pkg: pkg, edits: []edit{
			{"xml.go", "\t\tdefault:\n\t\t\treturn errors.New(\"it holds a DOCTYPE or another declaration\")\n", ""},
			{"xml.go", "case xml.Directive:\n\t\t\treturn errors.New(\"it holds a DOCTYPE or another declaration\")\n", "case xml.Directive:\n"},
		}},
		in("xml.go", "comments", `bytes.HasPrefix(rest, []byte("--")) && comments`, `bytes.HasPrefix(rest, []byte("--"))`),
		in("xml.go", "bounds of a document", "depth > maxDepth || elements > maxElements", "depth < 0"),
		in("xml.go", "relative namespaces", `!strings.Contains(uri, ":") || `, ""),
		in("xml.go", "attributes that are there twice", "if seen[a.Name] {", "if seen[a.Name] && false {"),
		in("response.go", "IDs that are there twice", "if seen[a.Value] {", "if seen[a.Value] && false {"),
		in("response.go", "one assertion", "if assertion != nil {\n\t\t\t\treturn errors.New(\"it holds more than one assertion\")", "if false {\n\t\t\t\treturn errors.New(\"it holds more than one assertion\")"),
		in("response.go", "where an assertion stands", "e.NamespaceURI() != nsAssertion || e.Parent() != root {", "false {"),
		in("response.go", "where a signature stands", "e.NamespaceURI() != nsSignature || p != root && !(is(p, nsAssertion, tagAssertion) && p.Parent() == root)", "p == nil"),
		in("response.go", "that anything is signed", "case !v.signed:", "case false:"),
		in("response.go", "the signature within encryption", "case errors.Is(err, errUnsigned) && v.signed:", "case errors.Is(err, errUnsigned):"),
		in("signature.go", "one Reference", "if len(refs) != 1 {", "if len(refs) == 0 {"),
		in("signature.go", "what the Reference names", `uri != "#"+id`, `len(uri) > 99`),
		in("signature.go", "transforms", "len(algs) != 2 || algs[0] != algEnveloped || algs[1] != algExclusive", "len(algs) > 9"),
		in("signature.go", "the signature's method", "\tif !ok {\n\t\treturn none, fmt.Errorf(\"its signature method", "\tif key = max(key, x509.RSA); !ok && false {\n\t\treturn none, fmt.Errorf(\"its signature method"),
		in("signature.go", "the digest's method", "!digestMethods()[alg]", `alg == "-"`),
		in("signature.go", "prefixed attributes of a signature", `a.Space != "" && a.Space != "xmlns"`, `a.Space == "-"`),
		in("signature.go", "KeyInfo, which is dropped", "sig.RemoveChild(k)", "_ = k"),
		in("judge.go", "InResponseTo of the response", `x.checkRequest("response", attr(r, "InResponseTo"))`, gone),
		in("judge.go", "InResponseTo of the assertion", `x.checkRequest("assertion", attr(data, "InResponseTo"))`, gone),
		in("judge.go", "Destination", `d != "" && !api.SameURL(d, x.acs)`, `d == "-"`),
		in("judge.go", "Recipient", "!api.SameURL(r, x.acs)", `r == "-"`),
		in("judge.go", "issuer", "name != x.entity {", `name == "-" {`),
		in("judge.go", "audience", "x.checkAudience(e)", gone),
		in("judge.go", "that there is an audience", "audiences == 0", "audiences < 0"),
		in("judge.go", "NotBefore", `err = sso.NotBefore(what+" counts from", at, x.now)`, "_ = at"),
		in("judge.go", "NotOnOrAfter", `err = sso.NotAfter(what+" counted until", end.Add(-time.Nanosecond), x.now)`, "_ = what"),
		in("judge.go", "bearer", `attr(c, "Method") != methodBearer`, `attr(c, "Method") == "-"`),
		in("judge.go", "transient names", "case formatTransient, formatEncrypted:", `case "-":`),
		in("judge.go", "the status", `attr(code, "Value") == statusSuccess`, `attr(code, "Value") != ""`),
		in("judge.go", "the assertion's ID in UseOnce", `UseOnce: x.entity + "\x00" + id`, `UseOnce: x.entity + "\x00" + id[:0]`),
		in("saml.go", "validUntil", "err := known.checkUntil(now)", "err := error(nil)"),
		in("response.go", "unknown keys within encryption", "\t\treturn errEncrypted\n\t}\n\treturn nil", "\t\treturn errors.Join(errEncrypted, err)\n\t}\n\treturn nil"),
		in("metadata.go", "https of the address", "return location, checkLocation(location)", "return location, nil"),
		in("metadata.go", "that there is a certificate", "case len(p.certs) == 0:", "case false:"),
		in("signature.go", "the length of keys", "bits < minRSABits", "bits < 0"),
	}
}

func oidcMutants() []mutant {
	const pkg = "sso/oidc"
	in := func(file, name, old, with string) mutant {
		return mutant{name: name, pkg: pkg, edits: []edit{{file, old, with}}}
	}
	return []mutant{
		in("token.go", "nonce", `!ok || f.Nonce == "" || subtle.ConstantTimeCompare([]byte(nonce), []byte(f.Nonce)) != 1`, `!ok && subtle.ConstantTimeCompare([]byte(nonce), nil) == 9`),
		in("token.go", "azp", "named && party != any(p.spec.ClientID) || !named && len(audience) > 1", `named && party == "-"`),
		in("token.go", "aud", "!ok || !slices.Contains(audience, any(p.spec.ClientID))", `!ok && slices.Contains(audience, any("-"))`),
		in("token.go", "iss", "issuer != p.spec.IssuerURL", `issuer == "-"`),
		in("token.go", "exp", `sso.NotAfter("its ID token is good until", expires, now)`, "sso.NotAfter(\"\", now, now.Add(0*expires.Sub(now)))"),
		in("token.go", "at_hash", "!ok || text != token.AccessTokenHash || token.VerifyAccessToken(got.access) != nil", `!ok && text == "-"`),
		in("../sso.go", "state (OIDC)", stateCheck, noStateCheck),
		in("../sso.go", "iss (OIDC)", "named && !is(issuer[0])", "named && false"),
		in("oidc.go", "iss that was promised", `md.IssuerInAnswer && !answer.Has("iss")`, "md.IssuerInAnswer && false"),
		in("claims.go", "addresses that people choose", `strings.Contains(name, "@")`, `strings.Contains(name, "@@")`),
	}
}

// The check of state is one of all protocols of OAuth 2.0, and each must notice that it is gone.
const (
	stateCheck   = `f.ID == "" || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(f.ID)) != 1`
	noStateCheck = `f.ID == "" && subtle.ConstantTimeCompare(nil, nil) == 9`
)

func githubMutants() []mutant {
	const pkg = "sso/github"
	in := func(file, name, old, with string) mutant {
		return mutant{name: name, pkg: pkg, edits: []edit{{file, old, with}}}
	}
	return []mutant{
		in("../sso.go", "state (GitHub)", stateCheck, noStateCheck),
		in("token.go", "iss (GitHub)", `err == nil && u.Scheme == "https" && strings.EqualFold(u.Host, p.site)`, `err == nil && u.Scheme != "-"`),
		in("token.go", "the verifier", "oauth2.VerifierOption(f.Verifier)", `oauth2.VerifierOption("-")`),
		in("answers.go", "the next page's host", "u.User != nil || !strings.EqualFold(hostPort(u), hostPort(base))", "u.User != nil"),
		in("answers.go", "the next page's scheme", `u.Scheme != "https" || u.User != nil`, "u.User != nil"),
		in("answers.go", "the next page's path", `u.Path != path.Clean(u.Path) || !strings.HasPrefix(u.Path, base.Path+"/")`, `u.Path != path.Clean(u.Path) && u.Path == "-"`),
		in("answers.go", "the id of the account", "a.ID <= 0", "a.ID < -9"),
		in("answers.go", "the ids of organizations of teams", "t.Organization == nil || t.Organization.ID <= 0", "t.Organization == nil"),
		in("answers.go", "the ids of organizations", "o.ID <= 0", "o.ID < -9"),
		in("github.go", "who somebody is by number", "p.api.subject(who.ID)", "p.api.subject(int64(len(who.Login)))"),
		in("caller.go", "a list that is refused", "if err := c.status(status, header, u, body); err != nil {", "if err := c.status(status, header, u, body); err != nil && false {"),
		in("caller.go", "redirects", "own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }", "own.CheckRedirect = nil"),
		in("github.go", "the end of the token", "defer p.revoke(ctx, token)", "_ = p.revoke"),
	}
}

func authMutants() []mutant {
	const pkg = "internal/auth"
	in := func(file, name, old, with string) mutant {
		return mutant{name: name, pkg: pkg, edits: []edit{{file, old, with}}}
	}
	return []mutant{
		in("ssologin.go", "that a flow is used once", "spendID(v, st.usedName(), id.Username, st.Expires)", "spendID(v, st.usedName()+made.Cookie, id.Username, st.Expires)"),
		in("ssologin.go", "that an answer is used once", `if id.UseOnce == "" {`, "if true {"),
		in("ssologin.go", "the end of an answer that has none", "if id.UseUntil.Before(until) {", "if true {"),
		in("ssologin.go", "the connector of a state", "open.Doc.Head().Metadata.Name != st.Connector", "false"),
		in("ssologin.go", "that the connector is what it was", "if !again.asBefore(open) {", "if !again.asBefore(again) {"),
		in("ssologin.go", "who decides against a login", "\t\tif Judged(err) {", "\t\tif err != nil {"),
		in("ssologin.go", "what a flow is tried", "*tries > maxFlowTries", "*tries < 0"),
		in("ssofail.go", "the words of strangers", "s.count(st.Connector, id, code, from)", "s.count(st.Connector, id, code+api.Code(text), from)"),
		in("ssofail.go", "how many people have a line", "people.AllowN(now, 1)", "people.AllowN(now, 0)"),
		in("consoleanswer.go", "the connector of who approves", `r.Connector != "" && by != r.Connector`, `r.Connector == "-" && by != r.Connector`),
		in("consoleanswer.go", "the user of who approves", `r.User != "" && r.User != p.User`, `r.User == "-"`),
		in("consoleanswer.go", "the code that is typed", "rec.Headless && !sameCode(typed, api.MatchCode(rec.PublicKey))", `rec.Headless && !sameCode(typed, api.MatchCode(rec.PublicKey)) && typed == "-"`),
		in("consoleredeem.go", "who approved, when redeemed", "err = rec.suits(p) //", "_ = p //"),
		in("consoleredeem.go", "the code of a headless login", "case r.Headless && len(code) == 0:", "case r.Headless:"),
		in("consoleredeem.go", "the verifier of tsh", "right &= subtle.ConstantTimeCompare(r.Challenge, hash(req.CodeVerifier))", "right &= subtle.ConstantTimeCompare(r.Challenge, r.Challenge)"),
		in("access.go", "the life of a connector", "!ok || !rec.Created.Equal(s.ConnectorCreated)", "!ok || rec.Created.IsZero()"),
		in("access.go", "the life of an SSO user", "u.Connector != s.Connector || !u.Created.Equal(s.UserCreated)", "u.Connector != s.Connector"),
		in("login.go", "the password that no session of a connector has", "s.PasswordRevision = noPassword", "s.PasswordRevision = 0"),
		in("ssousers.go", "the names of local users", "if _, ok := v.Get(local); ok {", "if _, ok := v.Get(local); ok && false {"),
		in("ssousers.go", "the names of SSO users", "case old.Connector != s.Connector || old.Subject != subject:", "case old == nil:"),
	}
}
