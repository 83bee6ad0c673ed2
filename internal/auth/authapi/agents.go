package authapi

import (
	"net/http"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// join makes whoever holds a token an agent.
func (h *Handler) join(r *http.Request) (any, error) {
	req, addr, err := loginCall[api.JoinRequest](r)
	if err != nil {
		return nil, err
	}
	resp, err := h.auth.Agents.Join(r.Context(), req, addr)
	h.joined(addr, resp, err)
	return resp, err
}

func (h *Handler) addToken(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbCreate, api.KindToken); err != nil {
		return nil, err
	}
	var req api.AddTokenRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	return h.auth.Tokens.Add(r.Context(), CallerFrom(r.Context()).actor(), req)
}

// agents lists those that have joined, with the replicas that they have tunnels to.
func (h *Handler) agents(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbList, api.KindAgent); err != nil {
		return nil, err
	}
	answer := api.Agents{Agents: h.auth.Agents.List()}
	if answer.Agents == nil {
		answer.Agents = []api.Agent{}
	}
	replicas, duplicates := h.replicas(), h.duplicates()
	for i := range answer.Agents {
		answer.Agents[i].Duplicate = slices.Contains(duplicates, answer.Agents[i].ID)
		if ids := replicas[answer.Agents[i].ID]; len(ids) > 0 {
			answer.Agents[i].Replicas = slices.Sorted(slices.Values(ids))
		}
	}
	return answer, nil
}

func (h *Handler) deleteAgent(r *http.Request) (any, error) {
	if err := h.Authorize(r, api.VerbDelete, api.KindAgent); err != nil {
		return nil, err
	}
	return nothing{}, h.auth.Agents.Delete(r.Context(), CallerFrom(r.Context()).actor(), r.PathValue("id"))
}
