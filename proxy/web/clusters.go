package web

import (
	"maps"
	"net/http"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// clusterRow is a cluster that the user may reach.
type clusterRow struct {
	Name    string
	Labels  []string // key=value, in order
	Login   []string
	Version string // of Kubernetes; "": nobody knows
	Trouble *trouble
}

// trouble is why a cluster may not answer; nil where it should.
type trouble struct {
	Badge string
	Bad   bool   // not merely unknown
	Why   string // as its probes, or the replicas, say
	Never bool   // it was never seen
	Seen  *moment
}

// clusters is the home of who is logged in: where to go, and what to paste.
func (s *site) clusters(w http.ResponseWriter, r *http.Request, v *visit) {
	list, err := s.opts.Accounts.Clusters(r.Context(), v.cookie)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	var rows []clusterRow
	for _, c := range list {
		row := clusterRow{Name: c.Name, Login: []string{"tsh", "kube", "login", api.ShellQuote(c.Name)}, Trouble: s.trouble(c.Status)}
		if c.Status != nil {
			row.Version = c.Status.Version
		}
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			row.Labels = append(row.Labels, k+"="+c.Labels[k])
		}
		rows = append(rows, row)
	}
	s.show(w, http.StatusOK, page{name: "clusters", title: "Your clusters", visit: v, body: map[string]any{
		"Login": s.loginLine(v.User, v.Connector), "Cluster": s.opts.ClusterName, "Clusters": rows,
	}})
}

// trouble puts a cluster's health in words. One that does well needs none: it is
// what people expect.
func (s *site) trouble(st *api.KubeStatus) *trouble {
	if st == nil || st.Health == api.HealthHealthy {
		return nil
	}
	t := &trouble{Why: sentence(st.Reason)}
	switch st.Health {
	case api.HealthUnhealthy:
		t.Badge, t.Bad = "unhealthy", true
	case api.HealthOffline:
		t.Badge, t.Bad = "offline", true
		t.Why = "No agent of it is connected." // since when is said anyway
		t.Never = st.LastSeen.IsZero()
	default:
		if t.Badge = "not checked yet"; st.Asked() {
			t.Badge = "unknown"
		}
	}
	if t.Bad && !st.LastSeen.IsZero() {
		seen := s.moment(st.LastSeen)
		t.Seen = &seen
	}
	return t
}
