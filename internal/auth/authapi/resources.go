package authapi

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/auth"
)

// nothing is the answer to calls that have none.
type nothing struct{}

func (h *Handler) addUser(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbCreate, api.KindUser); err != nil {
		return nil, err
	}
	var req api.AddUserRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return h.auth.Users.Add(r.Context(), CallerFrom(r.Context()).actor(), req)
}

// ssoUsers lists those who have logged in through connectors: whoever may list users
// may list them.
func (h *Handler) ssoUsers(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbList, api.KindUser); err != nil {
		return nil, err
	}
	answer := api.SSOUsers{Users: h.auth.Users.SSO()}
	if answer.Users == nil {
		answer.Users = []api.SSOUser{}
	}
	return answer, nil
}

// resetUser takes a user's password, second factors and sessions away.
func (h *Handler) resetUser(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbUpdate, api.KindUser); err != nil {
		return nil, err
	}
	var req api.ResetUserRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return h.auth.Users.Reset(r.Context(), CallerFrom(r.Context()).actor(), req.User, time.Duration(req.TTL))
}

// forced reads what --force sends.
func forced(r *http.Request) (bool, error) { return asked(r, "force") }

// asked reads a parameter that is true or false.
func asked(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	yes, err := strconv.ParseBool(text)
	if err != nil {
		return false, api.Errorf(api.CodeInvalid, "%s=%q: want true or false", name, text)
	}
	return yes, nil
}

func (h *Handler) put(r *http.Request) (any, error) {
	force, err := forced(r)
	if err != nil {
		return nil, err
	}
	// Before the body is read: who may write nothing learns nothing.
	if c := CallerFrom(r.Context()); !c.Admin {
		if _, err := h.principal(c); err != nil {
			return nil, err
		}
	}
	body, err := read(r)
	if err != nil {
		return nil, err
	}
	doc, err := api.DecodeDocument(body)
	if err != nil {
		return nil, err
	}
	actor := CallerFrom(r.Context()).actor()
	switch d := doc.(type) {
	case *api.User:
		if err := h.mayPut(r, api.KindUser, d.Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.Users.Put(r.Context(), actor, d, force)
	case *api.Role:
		if err := h.mayPut(r, api.KindRole, d.Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.Roles.Put(r.Context(), actor, d, force)
	case *api.AuthPreference:
		// There is always one in force: to write it is to change it.
		if err := h.Authorize(r, api.VerbUpdate, api.KindAuthPreference); err != nil {
			return nil, err
		}
		return h.auth.Preference.Put(r.Context(), actor, d, force)
	case *api.Token:
		if err := h.mayPut(r, api.KindToken, d.Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.Tokens.Put(r.Context(), actor, d, force)
	case *api.KubeClusterDocument:
		if err := h.mayPut(r, api.KindKubeCluster, d.Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.KubeClusters.Put(r.Context(), actor, d, force)
	case *api.AuditForwarder:
		if err := h.mayPut(r, api.KindAuditForwarder, d.Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.Forwarders.Put(r.Context(), actor, d, force)
	case api.Connector:
		if err := h.mayPut(r, d.ConnectorKind(), d.Head().Metadata, force); err != nil {
			return nil, err
		}
		return h.auth.Connectors.Put(r.Context(), actor, d, force)
	default:
		return nil, api.Errorf(api.CodeInvalid, "documents of this kind can't be written")
	}
}

// mayPut: who forces may replace as well as create. A document that names its
// revision can only replace (see auth's checkRevision), so that who may update
// needs no right to create.
func (h *Handler) mayPut(r *http.Request, kind string, m api.Metadata, force bool) error {
	if m.Revision == 0 {
		if err := h.Authorize(r, api.VerbCreate, kind); err != nil || !force {
			return err
		}
	}
	return h.Authorize(r, api.VerbUpdate, kind)
}

// documents is how the documents of one kind are read and removed.
type documents struct {
	kind   string
	list   func() ([]json.RawMessage, error)
	get    func(name string) (json.RawMessage, error)
	delete func(ctx context.Context, by auth.Actor, name string, force bool) error
	// secrets are shown too: for that one needs the right to change them.
	secrets bool
}

// mayRead: verb is list or read.
func (h *Handler) mayRead(r *http.Request, verb string, docs documents) error {
	if err := h.Authorize(r, verb, docs.kind); err != nil || !docs.secrets {
		return err
	}
	return h.Authorize(r, api.VerbUpdate, docs.kind)
}

// unforced is for kinds whose documents are removed without force as well.
func unforced(remove func(context.Context, auth.Actor, string) error) func(context.Context, auth.Actor, string, bool) error {
	return func(ctx context.Context, by auth.Actor, name string, _ bool) error { return remove(ctx, by, name) }
}

// documentsOf is how those of the path's kind are. Plurals and other names that
// people type are tctl's to understand.
func (h *Handler) documentsOf(r *http.Request) (documents, error) {
	switch kind := r.PathValue("kind"); kind {
	case api.KindUser:
		return documents{kind: kind, list: h.auth.Users.List, get: h.auth.Users.Get, delete: unforced(h.auth.Users.Delete)}, nil
	case api.KindRole:
		return documents{kind: kind, list: h.auth.Roles.List, get: h.auth.Roles.Get, delete: unforced(h.auth.Roles.Delete)}, nil
	case api.KindAuthPreference:
		return h.preference(), nil
	case api.KindToken:
		return documents{kind: kind, list: h.auth.Tokens.List, get: h.auth.Tokens.Get, delete: unforced(h.auth.Tokens.Delete)}, nil
	case api.KindKubeCluster:
		return documents{kind: kind, list: h.auth.KubeClusters.Documents, get: h.auth.KubeClusters.Document, delete: h.auth.KubeClusters.Delete}, nil
	case api.KindAuditForwarder:
		secrets, err := asked(r, "secrets")
		return sealed(r, kind, secrets, h.auth.Forwarders), err
	default:
		if slices.Contains(api.ConnectorKinds(), kind) {
			secrets, err := asked(r, "secrets")
			return sealed(r, kind, secrets, h.auth.Connectors), err
		}
		if hint := api.DidYouMean(kind, api.Kinds()); hint != "" {
			return documents{}, api.Errorf(api.CodeInvalid, "there are no documents of kind %.64q%s", kind, hint)
		}
		return documents{}, api.Errorf(api.CodeInvalid, "there are no documents of kind %.64q: want one of %s", kind, strings.Join(api.Kinds(), ", "))
	}
}

// sealedDocuments are those that have secrets.
type sealedDocuments interface {
	List(kind string) ([]json.RawMessage, error)
	Get(kind, name string) (json.RawMessage, error)
	ListSecrets(ctx context.Context, by auth.Actor, kind string) ([]json.RawMessage, error)
	GetSecrets(ctx context.Context, by auth.Actor, kind, name string) (json.RawMessage, error)
	Delete(ctx context.Context, by auth.Actor, kind, name string) error
}

// sealed are the documents of one kind of them.
func sealed(r *http.Request, kind string, secrets bool, d sealedDocuments) documents {
	docs := documents{
		kind: kind, secrets: secrets,
		list: func() ([]json.RawMessage, error) { return d.List(kind) },
		get:  func(name string) (json.RawMessage, error) { return d.Get(kind, name) },
		delete: unforced(func(ctx context.Context, by auth.Actor, name string) error {
			return d.Delete(ctx, by, kind, name)
		}),
	}
	if secrets {
		by := CallerFrom(r.Context()).actor()
		docs.list = func() ([]json.RawMessage, error) { return d.ListSecrets(r.Context(), by, kind) }
		docs.get = func(name string) (json.RawMessage, error) { return d.GetSecrets(r.Context(), by, kind, name) }
	}
	return docs
}

// preference is a kind with one document.
func (h *Handler) preference() documents {
	named := func(name string) error {
		if name != api.AuthPreferenceName {
			return api.Errorf(api.CodeNotFound, "there is only one %s, called %s", api.KindAuthPreference, api.AuthPreferenceName)
		}
		return nil
	}
	return documents{
		kind: api.KindAuthPreference,
		list: func() ([]json.RawMessage, error) {
			doc, err := h.auth.Preference.Document()
			return []json.RawMessage{doc}, err
		},
		get: func(name string) (json.RawMessage, error) {
			if err := named(name); err != nil {
				return nil, err
			}
			return h.auth.Preference.Document()
		},
		delete: func(ctx context.Context, by auth.Actor, name string, force bool) error {
			if err := named(name); err != nil {
				return err
			}
			return h.auth.Preference.Delete(ctx, by, force)
		},
	}
}

func (h *Handler) list(r *http.Request) (any, error) {
	docs, err := h.documentsOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.mayRead(r, api.VerbList, docs); err != nil {
		return nil, err
	}
	items, err := docs.list()
	if items == nil {
		items = []json.RawMessage{}
	}
	return api.ListResponse{Items: items}, err
}

func (h *Handler) get(r *http.Request) (any, error) {
	docs, err := h.documentsOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.mayRead(r, api.VerbRead, docs); err != nil {
		return nil, err
	}
	item, err := docs.get(r.PathValue("name"))
	return api.ListResponse{Items: []json.RawMessage{item}}, err
}

func (h *Handler) delete(r *http.Request) (any, error) {
	docs, err := h.documentsOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.Authorize(r, api.VerbDelete, docs.kind); err != nil {
		return nil, err
	}
	force, err := forced(r)
	if err != nil {
		return nil, err
	}
	return nothing{}, docs.delete(r.Context(), CallerFrom(r.Context()).actor(), r.PathValue("name"), force)
}

func (h *Handler) kubeClusters(r *http.Request) (any, error) {
	answer := api.KubeClusters{Clusters: []api.KubeCluster{}}
	c := CallerFrom(r.Context())
	if c.Admin {
		answer.Clusters = append(answer.Clusters, h.auth.KubeClusters.List()...)
		return answer, nil
	}
	p, err := h.principal(c)
	if err != nil {
		return nil, err
	}
	answer.Clusters = append(answer.Clusters, h.auth.Access.KubeClusters(h.db.View(), p)...)
	return answer, nil
}
