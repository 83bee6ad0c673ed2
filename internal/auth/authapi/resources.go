package authapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/api"
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

func (h *Handler) put(r *http.Request) (any, error) {
	force := false
	if text := r.URL.Query().Get("force"); text != "" {
		var err error
		if force, err = strconv.ParseBool(text); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "force=%q: want true or false", text)
		}
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
		if err := h.mayPut(r, api.KindUser, force); err != nil {
			return nil, err
		}
		return h.auth.Users.Put(r.Context(), actor, d, force)
	case *api.Role:
		if err := h.mayPut(r, api.KindRole, force); err != nil {
			return nil, err
		}
		return h.auth.Roles.Put(r.Context(), actor, d, force)
	default:
		return nil, api.Errorf(api.CodeInvalid, "documents of this kind can't be written")
	}
}

// mayPut: who forces may replace as well as create.
func (h *Handler) mayPut(r *http.Request, kind string, force bool) error {
	if err := h.Authorize(r, api.VerbCreate, kind); err != nil || !force {
		return err
	}
	return h.Authorize(r, api.VerbUpdate, kind)
}

// kindOf takes the plural too: tctl get users.
func kindOf(r *http.Request) (string, error) {
	switch kind := r.PathValue("kind"); kind {
	case api.KindUser, api.KindUser + "s":
		return api.KindUser, nil
	case api.KindRole, api.KindRole + "s":
		return api.KindRole, nil
	default:
		return "", api.Errorf(api.CodeInvalid, "there are no documents of kind %.64q: want user or role", kind)
	}
}

func (h *Handler) list(r *http.Request) (any, error) {
	kind, err := kindOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.Authorize(r, api.VerbList, kind); err != nil {
		return nil, err
	}
	var items []json.RawMessage
	if kind == api.KindUser {
		items, err = h.auth.Users.List()
	} else {
		items, err = h.auth.Roles.List()
	}
	if items == nil {
		items = []json.RawMessage{}
	}
	return api.ListResponse{Items: items}, err
}

func (h *Handler) get(r *http.Request) (any, error) {
	kind, err := kindOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.Authorize(r, api.VerbRead, kind); err != nil {
		return nil, err
	}
	var item json.RawMessage
	if kind == api.KindUser {
		item, err = h.auth.Users.Get(r.PathValue("name"))
	} else {
		item, err = h.auth.Roles.Get(r.PathValue("name"))
	}
	return api.ListResponse{Items: []json.RawMessage{item}}, err
}

func (h *Handler) delete(r *http.Request) (any, error) {
	kind, err := kindOf(r)
	if err != nil {
		return nil, err
	}
	if err := h.Authorize(r, api.VerbDelete, kind); err != nil {
		return nil, err
	}
	actor := CallerFrom(r.Context()).actor()
	if kind == api.KindUser {
		return nothing{}, h.auth.Users.Delete(r.Context(), actor, r.PathValue("name"))
	}
	return nothing{}, h.auth.Roles.Delete(r.Context(), actor, r.PathValue("name"))
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
