package main

import "slices"

// mutants are the checks that single sign-on stands on.
func mutants() []mutant { return slices.Concat(samlMutants(), oidcMutants()) }

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
		in("response.go", "that anything is signed", "case !o.signed:", "case false:"),
		in("response.go", "the signature within encryption", "case errors.Is(err, errUnsigned) && o.signed:", "case errors.Is(err, errUnsigned):"),
		in("signature.go", "one Reference", "if len(refs) != 1 {", "if len(refs) == 0 {"),
		in("signature.go", "what the Reference names", `uri != "#"+id`, `len(uri) > 99`),
		in("signature.go", "transforms", "len(algs) != 2 || algs[0] != algEnveloped || algs[1] != algExclusive", "len(algs) > 9"),
		in("signature.go", "the signature's method", "\tif !ok {\n\t\treturn none, fmt.Errorf(\"its signature method", "\tif key = max(key, x509.RSA); !ok && false {\n\t\treturn none, fmt.Errorf(\"its signature method"),
		in("signature.go", "the digest's method", "!digestMethods()[alg]", `alg == "-"`),
		in("signature.go", "prefixed attributes of a signature", `a.Space != "" && a.Space != "xmlns"`, `a.Space == "-"`),
		in("signature.go", "KeyInfo, which is dropped", "sig.RemoveChild(k)", "_ = k"),
		in("judge.go", "InResponseTo of the response", `x.checkRequest("response", attr(w, "InResponseTo"))`, gone),
		in("judge.go", "InResponseTo of the assertion", `x.checkRequest("assertion", attr(data, "InResponseTo"))`, gone),
		in("judge.go", "Destination", `d != "" && !api.SameURL(d, x.acs)`, `d == "-"`),
		in("judge.go", "Recipient", "!api.SameURL(r, x.acs)", `r == "-"`),
		in("judge.go", "issuer", "name != x.entity {", `name == "-" {`),
		in("judge.go", "audience", "x.checkAudience(e)", gone),
		in("judge.go", "that there is an audience", "audiences == 0", "audiences < 0"),
		in("judge.go", "NotBefore", `err = sso.NotBefore(what+" counts from", at, x.now)`, "_ = at"),
		in("judge.go", "NotOnOrAfter", `err = sso.NotAfter(what+" counted until", end.Add(-time.Nanosecond), x.now)`, "_ = what"),
		in("judge.go", "bearer", `attr(c, "Method") != methodBearer`, `attr(c, "Method") == "-"`),
		in("judge.go", "transient names", "case formatPassing, formatOneTime:", `case "-":`),
		in("judge.go", "the status", `attr(code, "Value") == statusSuccess`, `attr(code, "Value") != ""`),
		in("judge.go", "the assertion's ID in UseOnce", `x.entity + "\x00" + id`, `x.entity + "\x00"`),
		in("metadata.go", "https of the address", `case u.Scheme != "https":`, "case false:"),
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
		in("oidc.go", "state", `f.ID == "" || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(f.ID)) != 1`, `f.ID == "" && subtle.ConstantTimeCompare(nil, nil) == 9`),
	}
}
