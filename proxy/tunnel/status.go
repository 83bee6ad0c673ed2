package tunnel

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

const (
	maxReason = 256 // bytes
	maxText   = 64  // bytes of a version or a name
)

// clusterStatus is a cluster of an agent, as tables carry it.
type clusterStatus struct {
	Name    string     `json:"name"`
	Health  api.Health `json:"health,omitempty"`
	Reason  string     `json:"reason,omitempty"`
	Version string     `json:"version,omitempty"`
	Checked time.Time  `json:"checked,omitzero"`

	Labels map[string]string `json:"labels,omitempty"`
	Mute   bool              `json:"mute,omitempty"` // it says no labels: what it said can't be
	CAs    []string          `json:"cas,omitempty"`  // see wire.Cluster
}

// cleanStatus bounds what was said of a cluster; the name is checked elsewhere.
func cleanStatus(s clusterStatus, now time.Time) clusterStatus {
	s.Reason, s.Version = api.CleanText(s.Reason, maxReason), api.CleanText(s.Version, maxText)
	switch s.Health {
	case api.HealthHealthy, api.HealthUnhealthy:
	default:
		s.Health = api.HealthUnknown
	}
	if s.Health == api.HealthHealthy {
		s.Reason = ""
	}
	if s.Checked.After(now) { // a clock that is ahead must not look fresher than others
		s.Checked = now
	}
	s.Checked = s.Checked.UTC()
	if s.Mute = s.Mute || api.ValidateLabels(s.Labels) != nil; s.Mute {
		s.Labels = nil
	}
	if len(s.CAs) > wire.MaxClusterCAs || slices.ContainsFunc(s.CAs, func(sum string) bool { return !validSum(sum) }) {
		s.CAs = nil
	}
	return s
}

// validSum reports whether s may be a SHA-256 in hex.
func validSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// maxLabelBytes bounds the labels that one agent gives all its clusters: its entry in
// a table must fit into a frame.
const maxLabelBytes = 128 << 10

// cleanClusters checks what an agent announces.
func cleanClusters(clusters []wire.Cluster, now time.Time) ([]clusterStatus, error) {
	if len(clusters) > api.MaxAgentClusters {
		return nil, api.Errorf(api.CodeTooLarge, "an agent serves at most %d Kubernetes clusters, this one announces %d", api.MaxAgentClusters, len(clusters))
	}
	statuses := make([]clusterStatus, 0, len(clusters))
	seen := make(map[string]struct{}, len(clusters))
	labelBytes := 0
	for _, c := range clusters {
		if err := api.ValidateKubeName(c.Name); err != nil {
			return nil, err
		}
		if _, twice := seen[c.Name]; twice {
			return nil, api.Errorf(api.CodeInvalid, "the agent announces the Kubernetes cluster %q twice", c.Name)
		}
		seen[c.Name] = struct{}{}
		s := cleanStatus(clusterStatus{
			Name: c.Name, Health: c.Health, Reason: c.Reason, Version: c.Version, Checked: c.Checked, Labels: c.Labels, CAs: c.CAs,
		}, now)
		if raw, err := json.Marshal(s.Labels); err != nil || labelBytes+len(raw) > maxLabelBytes {
			s.Labels, s.Mute = nil, true
		} else {
			labelBytes += len(raw)
		}
		statuses = append(statuses, s)
	}
	return statuses, nil
}

// status sums up what the agents of a cluster say. The worst counts: requests go to
// all that are used. Of agents that say alike, the last to look.
func (k *kube) status(name string, now time.Time) api.KubeStatus {
	if len(k.routes) == 1 { // the usual case, thousands of times
		s := k.routes[0].clusters[name]
		return api.KubeStatus{Health: s.Health, Reason: s.Reason, Version: s.Version, Checked: s.Checked, Agents: 1, LastSeen: now.UTC()}
	}
	v := k.verdict(name)
	agents, bad := make(map[string]bool, len(k.routes)), 0 // true: unhealthy
	var worst clusterStatus
	for _, r := range v.usable {
		s := r.clusters[name]
		if was, known := agents[r.agent]; !was && s.Health == api.HealthUnhealthy {
			agents[r.agent] = true
			bad++
		} else if !known {
			agents[r.agent] = false
		}
		if graver := s.Health.Gravity(!s.Checked.IsZero()) - worst.Health.Gravity(!worst.Checked.IsZero()); graver > 0 || graver == 0 && s.Checked.After(worst.Checked) {
			worst = s
		}
	}
	used := len(agents)
	for _, r := range k.routes {
		if _, known := agents[r.agent]; !known {
			agents[r.agent] = false // it is there, though not used
		}
	}
	status := api.KubeStatus{
		Health: worst.Health, Reason: worst.Reason, Version: worst.Version, Checked: worst.Checked,
		Agents: len(agents), LastSeen: now.UTC(),
	}
	if bad > 0 && bad < used {
		status.Reason = fmt.Sprintf("%d of %d agents: %s", bad, used, worst.Reason)
	}
	if status.Version == "" {
		for _, r := range v.usable {
			if version := r.clusters[name].Version; version != "" {
				status.Version = version
			}
		}
	}
	switch {
	case v.split:
		status.Health, status.Reason = api.HealthUnhealthy, reasonSplit
	case v.differ && status.Health == api.HealthHealthy:
		status.Reason = reasonLabels
	}
	return status
}
