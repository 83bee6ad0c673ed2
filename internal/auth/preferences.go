package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/sallyport-dev/sallyport/fsm"
	"github.com/sallyport-dev/sallyport/internal/api"
)

// keyPreference is the one record that says how local users prove who they are, and
// by which connector others log in unless they say.
const keyPreference = "auth_preference"

// AuthPreferences keeps the cluster's authentication preference.
type AuthPreferences struct {
	base       *base
	publicHost string
}

// preference is a stored one.
type preference struct {
	doc api.AuthPreference
	// unknown is what this version does not know. It may restrict in a way that we
	// would miss, so nobody logs in by it: see role.
	unknown error
}

// UnmarshalJSON reads a stored preference. Only what is none at all is an error.
func (p *preference) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &p.doc); err != nil {
		return err
	}
	if p.unknown = api.CheckFields(b, &p.doc); p.unknown == nil {
		p.unknown = p.doc.Validate()
	}
	return nil
}

// MarshalJSON writes the document.
func (p *preference) MarshalJSON() ([]byte, error) { return json.Marshal(p.doc) }

// policy is the preference in force, at one revision.
type policy struct {
	mode api.SecondFactor
	// rpID is the relying party's id; "": passkeys are impossible here, and why not.
	rpID, noPasskeys string
	revision         uint64
}

// unchanged is the check that the policy is still this one.
func (p policy) unchanged() fsm.Check {
	return fsm.Check{Key: preferences.Key(keyPreference), Revision: p.revision}
}

// satisfiedBy says whether having a kind of factor meets the policy's demand.
func (p policy) satisfiedBy(kind string) bool {
	return p.mode != api.SecondFactorWebAuthn || kind == api.FactorWebAuthn
}

// demands says whether everyone needs a factor.
func (p policy) demands() bool {
	return p.mode == api.SecondFactorOn || p.mode == api.SecondFactorWebAuthn
}

// policy reads the preference in force. A stored one that this version does not
// understand is an error: whoever decides by it denies.
func (a *AuthPreferences) policy(v fsm.View) (policy, error) {
	doc, rec, err := a.inForce(v)
	if err != nil {
		return policy{}, err
	}
	return a.policyOf(doc, revision(rec)), nil
}

func (a *AuthPreferences) policyOf(doc *api.AuthPreference, revision uint64) policy {
	p := policy{mode: doc.Spec.SecondFactor, rpID: doc.Spec.WebAuthn.RPID, revision: revision}
	if p.rpID == "" && !a.onAddress() {
		p.rpID = a.publicHost
	}
	if err := a.checkRPID(p.rpID); err != nil {
		p.rpID, p.noPasskeys = "", err.Error()
	}
	return p
}

// inForce gives a copy of the preference with its RPID filled in, where there can
// be one, and its record, nil for the default.
func (a *AuthPreferences) inForce(v fsm.View) (*api.AuthPreference, *fsm.Record, error) {
	doc := api.DefaultAuthPreference()
	stored, rec, err := preferences.Get(v, keyPreference)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
	case err != nil:
		return nil, rec, api.Errorf(api.CodeForbidden, "the authentication preference can't be read by this version, so nobody logs in by it: %w", err)
	case stored.unknown != nil:
		return nil, rec, api.Errorf(api.CodeForbidden, "the authentication preference holds what this version can't enforce, so nobody logs in by it: %w", stored.unknown)
	default:
		clone := stored.doc
		doc = &clone
		doc.Metadata.Revision = rec.Revision
	}
	if doc.Spec.WebAuthn.RPID == "" && !a.onAddress() {
		doc.Spec.WebAuthn.RPID = a.publicHost
	}
	return doc, rec, nil
}

// onAddress says that people reach us by an IP address: no passkey can be bound
// to one.
func (a *AuthPreferences) onAddress() bool {
	_, err := netip.ParseAddr(a.publicHost)
	return err == nil
}

// checkRPID is the rule of W3C Web Authentication, section 5.1.2: the host, or a
// domain above it that is no public suffix. Browsers refuse anything else.
func (a *AuthPreferences) checkRPID(id string) error {
	host := a.publicHost
	if a.onAddress() {
		return api.Errorf(api.CodeInvalid, "passkeys need a public address with a DNS name, not %s", host)
	}
	if id == host {
		return nil
	}
	registrable, err := publicsuffix.EffectiveTLDPlusOne(host)
	below := func(name, above string) bool { return name == above || strings.HasSuffix(name, "."+above) }
	if err != nil || !below(host, id) || !below(id, registrable) {
		return api.Errorf(api.CodeInvalid, "spec.webauthn.rp_id: %q is neither the public host %s nor a domain above it that can be registered", clip(id), host)
	}
	return nil
}

// Get returns the preference in force, with RPID filled in; RPID is "" where
// passkeys are impossible. An error means that nobody may log in by it.
func (a *AuthPreferences) Get() (*api.AuthPreference, error) {
	doc, _, err := a.inForce(a.base.db.View())
	if err == nil && a.checkRPID(doc.Spec.WebAuthn.RPID) != nil {
		doc.Spec.WebAuthn.RPID = ""
	}
	return doc, err
}

// Document returns the preference as it was written, with its revision, or the
// default.
func (a *AuthPreferences) Document() (json.RawMessage, error) {
	stored, rec, err := preferences.Get(a.base.db.View(), keyPreference)
	switch {
	case errors.Is(err, fsm.ErrNotFound):
		return json.Marshal(api.DefaultAuthPreference())
	case rec == nil:
		return nil, readError(api.KindAuthPreference, api.AuthPreferenceName, err)
	case err != nil:
		return document(rec, nil)
	}
	doc := stored.doc
	doc.Metadata.Revision = rec.Revision
	return document(rec, &doc)
}

// Put writes the preference. Over the default it needs no force; a change of the
// RPID that makes passkeys worthless does, whatever was there before.
func (a *AuthPreferences) Put(ctx context.Context, by Actor, doc *api.AuthPreference, force bool) (api.PutResponse, error) {
	if err := doc.Validate(); err != nil {
		return api.PutResponse{}, err
	}
	next := &preference{doc: *doc}
	next.doc.Metadata.Revision = 0
	if id := doc.Spec.WebAuthn.RPID; id != "" {
		if err := a.checkRPID(id); err != nil {
			return api.PutResponse{}, err
		}
	}
	if doc.Spec.SecondFactor == api.SecondFactorWebAuthn && a.onAddress() {
		return api.PutResponse{}, api.Errorf(api.CodeInvalid, "spec.second_factor: passkeys need a public address with a DNS name, not %s: nobody could log in", a.publicHost)
	}
	resp := api.PutResponse{Kind: api.KindAuthPreference, Name: api.AuthPreferenceName}
	rev, err := a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		stored, rec, err := preferences.Get(v, keyPreference)
		if err := putAllowed(api.KindAuthPreference, doc.Metadata, rec, force); err != nil {
			return fsm.Txn{}, err
		}
		if rec != nil && (err != nil || isUnknownField(stored.unknown)) {
			return fsm.Txn{}, api.Errorf(api.CodeForbidden, "the authentication preference was written by a newer version of Sallyport: change it through an upgraded replica, or delete it first")
		}
		if !force {
			if err := a.keepsPasskeys(v, doc.Spec.WebAuthn.RPID); err != nil {
				return fsm.Txn{}, err
			}
		}
		var held []fsm.Check
		if doc.Spec.Type != api.AuthLocal {
			// The name is written down: another connector of the kind that comes later
			// changes nothing.
			name, check, err := preferable(v, &doc.Spec)
			if err != nil {
				return fsm.Txn{}, err
			}
			next.doc.Spec.ConnectorName, held = name, []fsm.Check{check}
		}
		resp.Created = rec == nil
		resp.Warnings = a.warnings(v, &next.doc)
		op, err := preferences.Put(keyPreference, next, 0)
		if err != nil {
			return fsm.Txn{}, err
		}
		txn, err := a.write(ctx, v, by, rec, op, &next.doc)
		txn.Checks = append(txn.Checks, held...)
		return txn, err
	})
	resp.Revision = rev
	return resp, err
}

// warnings say who can't log in any more under a preference: nobody is told when it
// comes into force, but at the next login.
func (a *AuthPreferences) warnings(v fsm.View, doc *api.AuthPreference) []string {
	const named = 5
	p, factors := a.policyOf(doc, 0), &Factors{base: a.base}
	var out []string
	count := 0
	for rec := range passwordRecs.List(v) {
		life, found, err := userLife(v, passwordRecs.Name(rec))
		if err != nil || !found {
			continue
		}
		u, err := factors.read(v, life)
		if err == nil {
			_, err = u.methods(p)
		}
		if err == nil {
			continue
		}
		if count++; count <= named {
			out = append(out, users.Name(life))
		}
	}
	if count == 0 {
		return nil
	}
	if count > named {
		out = append(out, fmt.Sprintf("and %d more", count-named))
	}
	noun := "users"
	if count == 1 {
		noun = "user"
	}
	return []string{fmt.Sprintf("%d %s can't log in from now on, for want of a second factor that counts: %s; 'tctl users reset NAME' gives a link", count, noun, strings.Join(out, ", "))}
}

// Delete puts the default back in force. Where that makes passkeys worthless it
// needs force, except over a preference that this version does not understand:
// nobody logs in by that, whatever passkeys they have, and Put refuses to replace it.
func (a *AuthPreferences) Delete(ctx context.Context, by Actor, force bool) error {
	_, err := a.base.transact(ctx, func(v fsm.View) (fsm.Txn, error) {
		stored, rec, err := preferences.Get(v, keyPreference)
		if rec == nil {
			return fsm.Txn{}, api.Errorf(api.CodeNotFound, "there is no %s to delete: the default is in force", api.KindAuthPreference)
		}
		if understood := err == nil && stored.unknown == nil; understood && !force {
			if err := a.keepsPasskeys(v, ""); err != nil {
				return fsm.Txn{}, err
			}
		}
		return a.write(ctx, v, by, rec, fsm.Delete(rec.Key), api.DefaultAuthPreference())
	})
	return err
}

func (a *AuthPreferences) write(ctx context.Context, v fsm.View, by Actor, rec *fsm.Record, op fsm.Op, doc *api.AuthPreference) (fsm.Txn, error) {
	fields := map[string]any{"name": api.AuthPreferenceName, "second_factor": string(doc.Spec.SecondFactor)}
	if id := doc.Spec.WebAuthn.RPID; id != "" {
		fields["rp_id"] = id
	}
	if doc.Spec.Type != api.AuthLocal {
		fields["type"], fields["connector"] = doc.Spec.Type, doc.Spec.ConnectorName
	}
	if op.Delete {
		fields["deleted"] = true
	}
	line, err := a.base.event(ctx, v, api.EventAuthPreference, api.EventCodeAuthPreference, by, fields)
	return fsm.Txn{
		Checks: []fsm.Check{{Key: preferences.Key(keyPreference), Revision: revision(rec)}},
		Ops:    []fsm.Op{op}, Events: [][]byte{line},
	}, err
}

// keepsPasskeys refuses an RPID under which passkeys that people have would be
// worth nothing. (One that is added at this moment is not seen: it was made for
// the old id, and is refused when it is used.)
func (a *AuthPreferences) keepsPasskeys(v fsm.View, id string) error {
	if id == "" {
		id = a.publicHost
	}
	for rec, f := range factorRecs.List(v) {
		if f == nil {
			continue
		}
		for _, one := range f.Factors {
			if one.WebAuthn != nil && one.WebAuthn.RPID != id {
				return api.Errorf(api.CodeConflict, "user %q and perhaps others have passkeys for %q, which are worth nothing under %q: use --force (-f) if you mean it", factorRecs.Name(rec), clip(one.WebAuthn.RPID), id)
			}
		}
	}
	return nil
}
