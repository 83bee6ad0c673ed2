package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
)

// findConnector says of which kind a connector is; names are unique over all kinds.
func findConnector(ctx context.Context, r *replica, name string) (ref, error) {
	var names []string
	for _, kind := range api.ConnectorKinds() {
		of := namesOf(ctx, r, kind)
		if slices.Contains(of, name) {
			return ref{kind, name}, nil
		}
		names = append(names, of...)
	}
	// Whoever may not list them hears that, rather than that there is none.
	for _, kind := range api.ConnectorKinds() {
		_, err := r.List(ctx, kind, name)
		if err == nil {
			return ref{kind, name}, nil
		}
		if !api.IsCode(err, api.CodeNotFound) {
			return ref{connectors, name}, err
		}
	}
	hint := ""
	if near := client.Nearest(name, names); near != "" {
		hint = fmt.Sprintf(", did you mean %q?", near)
	}
	return ref{connectors, name}, api.Errorf(api.CodeNotFound, "connector %q not found%s", name, hint)
}

// orConnector adds to the refusal of a word that is no kind which connector is called
// so: people know them by their names, as they log in with them.
func orConnector(ctx context.Context, c *cliapp.Call, refusal error) error {
	if !api.IsCode(refusal, api.CodeInvalid) && !api.IsCode(refusal, api.CodeNotFound) {
		return refusal
	}
	meant := ref{}
	_ = withReplica(c, func(r *replica) error { // if nobody answers, the refusal stands as it is
		for _, kind := range api.ConnectorKinds() {
			for _, name := range namesOf(ctx, r, kind) {
				if slices.ContainsFunc(c.Args, func(arg string) bool { return arg == name && !isKind(arg) }) {
					meant = ref{kind, name}
				}
			}
		}
		return nil
	})
	if meant.name == "" {
		return refusal
	}
	return api.Errorf(api.CodeOf(refusal), "there is no kind %q, did you mean %s?", meant.name, meant)
}

// fetchSecret gives the documents, of a kind that has secrets, that a reference names.
func fetchSecret(ctx context.Context, r *replica, typed ref, secrets bool) (items []json.RawMessage, found ref, err error) {
	if secrets {
		items, err = r.ListWithSecrets(ctx, typed.kind, typed.name)
	} else {
		items, err = r.List(ctx, typed.kind, typed.name)
	}
	if typed.name == "" && (api.IsCode(err, api.CodeInvalid) || api.IsCode(err, api.CodeNotFound)) {
		return nil, typed, nil // an older replica knows of no such kind
	}
	return items, typed, suggest(ctx, r, typed, err)
}

// fetchConnector is the connector of that name, without its secrets.
func fetchConnector(ctx context.Context, r *replica, name string) (api.Connector, error) {
	items, _, err := fetch(ctx, r, ref{connectors, name}, false)
	if err != nil {
		return nil, err
	}
	if len(items) != 1 {
		return nil, api.Errorf(api.CodeInternal, "the replica gave %d documents for connector %q", len(items), name)
	}
	return asConnector(items[0])
}

// asConnector reads a connector as a replica gives it out, which knows more fields
// perhaps.
func asConnector(doc json.RawMessage) (api.Connector, error) {
	var h api.Header
	if err := json.Unmarshal(doc, &h); err != nil {
		return nil, err
	}
	c := api.NewConnector(h.Kind)
	if c == nil {
		return nil, api.Errorf(api.CodeInternal, "kind %q is no connector", h.Kind)
	}
	return c, json.Unmarshal(doc, c)
}

// ssoUser is somebody who comes from a connector; nil: nobody of that name does, or
// it can't be known.
func ssoUser(ctx context.Context, r *replica, name string) *api.SSOUser {
	users, err := r.SSOUsers(ctx)
	if err != nil {
		return nil
	}
	if i := slices.IndexFunc(users, func(u api.SSOUser) bool { return u.Name == name }); i >= 0 {
		return &users[i]
	}
	return nil
}

// noDocument says of a user why there is nothing to read or to change.
func noDocument(u *api.SSOUser) error {
	return api.Errorf(api.CodeNotFound, "user %q not found: %s is no local user but comes from %s, whose mapping gives roles and traits at each login: see 'tctl get %s'",
		u.Name, u.Name, spoken(u.Kind, u.Connector), ref{u.Kind, u.Connector})
}

// explainUser puts noDocument in the place of the refusal to change a local user
// where that is the reason.
func explainUser(ctx context.Context, r *replica, name string, err error) error {
	if api.IsCode(err, api.CodeNotFound) {
		if u := ssoUser(ctx, r, name); u != nil {
			return noDocument(u)
		}
	}
	return err
}

// mayReturn says of a user who was removed how that was meant.
func mayReturn(u *api.SSOUser) string {
	if u == nil {
		return ""
	}
	return fmt.Sprintf("%s can log in again with %s as long as the identity provider and its mapping allow it.", u.Name, spoken(u.Kind, u.Connector))
}
