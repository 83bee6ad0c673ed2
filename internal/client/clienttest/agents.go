package clienttest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// madeUp begins the tokens that are added without a value; they end in 1, 2, 3 ….
const madeUp = "5f0c2d7a9b3e4816a0d1c2b3e4f5061"

// defaultTokenLife is how long a token lives unless somebody says.
const defaultTokenLife = 30 * time.Minute

// SetKubeClusters says which clusters users may reach; nobody knows how they do.
func (s *Server) SetKubeClusters(names ...string) {
	clusters := make([]api.KubeCluster, len(names))
	for i, name := range names {
		clusters[i] = api.KubeCluster{Name: name, Labels: map[string]string{"env": "test"}}
	}
	s.SetKube(clusters...)
}

// SetKube is SetKubeClusters with labels and states.
func (s *Server) SetKube(clusters ...api.KubeCluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.setKube(clusters...)
}

func (s *Server) setKube(clusters ...api.KubeCluster) {
	s.kubes = clusters
	docs := map[string]json.RawMessage{}
	for _, k := range clusters {
		b, _ := json.Marshal(api.KubeClusterDocument{ // a plain struct
			Header: api.Header{
				Kind: api.KindKubeCluster, Version: api.KubeClusterVersion,
				Metadata: api.Metadata{Name: k.Name, Labels: k.Labels, Revision: 1},
			},
			Status: k.Status,
		})
		docs[k.Name] = b
	}
	s.docs[api.KindKubeCluster] = docs
}

// AddAgent makes an agent that has joined.
func (s *Server) AddAgent(a api.Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents[a.ID] = a
}

func (s *Server) agentRoutes(mux *http.ServeMux, may func(verb, kind string, h http.HandlerFunc) http.HandlerFunc) {
	mux.HandleFunc("POST "+api.PathTokens, may(api.VerbCreate, api.KindToken, handle(s, s.addToken)))
	mux.HandleFunc("GET "+api.PathAgents, may(api.VerbList, api.KindAgent, handle(s, func(*http.Request, *none) (any, error) {
		list := api.Agents{Agents: []api.Agent{}}
		for _, id := range slices.Sorted(maps.Keys(s.agents)) {
			list.Agents = append(list.Agents, s.agents[id])
		}
		return list, nil
	})))
	mux.HandleFunc("DELETE "+api.PathAgents+"/{id}", may(api.VerbDelete, api.KindAgent, handle(s, func(r *http.Request, _ *none) (any, error) {
		id := r.PathValue("id")
		if _, ok := s.agents[id]; !ok {
			return nil, api.Errorf(api.CodeNotFound, "agent %q not found", id)
		}
		delete(s.agents, id)
		return none{}, nil
	})))
}

func (s *Server) addToken(_ *http.Request, in *api.AddTokenRequest) (any, error) {
	secret := in.Value
	if secret == "" {
		s.tokens++
		secret = fmt.Sprintf("%s%d", madeUp, s.tokens)
	}
	ttl := in.TTL
	if ttl == 0 {
		ttl = api.Duration(defaultTokenLife)
	}
	if time.Duration(ttl) > 10*365*24*time.Hour {
		return nil, api.Errorf(api.CodeInvalid, "a token lives 10 years at most")
	}
	id := api.TokenID(secret)
	if _, ok := s.docs[api.KindToken][id]; ok {
		return nil, api.Errorf(api.CodeExists, "token %q already exists", id)
	}
	expires := s.tokenEpoch().Add(time.Duration(ttl))
	doc := api.Token{
		Header: api.Header{Kind: api.KindToken, Version: api.TokenVersion, Metadata: api.Metadata{Name: id, Labels: in.Labels, Expires: expires}},
		Spec: api.TokenSpec{
			Roles: in.Roles, JoinMethod: api.JoinMethodToken, MaxUses: in.MaxUses, KubeClusters: in.KubeClusters,
		},
	}
	s.revision++
	doc.Metadata.Revision = s.revision
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	s.docs[api.KindToken][id] = b
	return api.AddTokenResponse{
		Token: secret, ID: id, Roles: in.Roles, Expires: expires, TTL: ttl, Proxy: s.PublicAddr, CAPins: []string{"sha256:h"},
	}, nil
}

// tokenEpoch is from when tokens live: a day that scripts can compare with.
func (s *Server) tokenEpoch() time.Time { return time.Date(2036, 1, 2, 3, 4, 5, 0, time.UTC) }

// hideToken puts a token's id in the place of the token in its document, unless it
// is one that was read.
func (s *Server) hideToken(doc *json.RawMessage, name *string) error {
	var t api.Token
	if err := json.Unmarshal(*doc, &t); err != nil {
		return api.Errorf(api.CodeInvalid, "document: %w", err)
	}
	if _, read := s.docs[api.KindToken][*name]; read || t.Spec.JoinMethod == api.JoinMethodKubernetes {
		return nil
	}
	*name = api.TokenID(*name)
	t.Metadata.Name = *name
	b, err := json.Marshal(t)
	*doc = b
	return err
}

// connected refuses to forget a cluster whose agents are there.
func (s *Server) connected(kind, name string) error {
	for _, a := range s.agents {
		if kind == api.KindKubeCluster && len(a.Replicas) > 0 && slices.Contains(a.KubeClusters, name) {
			return api.Errorf(api.CodeConflict, "agents of Kubernetes cluster %q are connected: remove them first ('tctl nodes rm'), or use --force", name)
		}
	}
	return nil
}
