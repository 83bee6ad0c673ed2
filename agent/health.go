package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/upstream"
	"github.com/sallyport-dev/sallyport/internal/wire"
)

// watchHealth asks a cluster's API server again and again how it does.
func (a *Agent) watchHealth(ctx context.Context, c *cluster) {
	for {
		r := c.probe(ctx)
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		before := c.said
		c.said, c.checked = c.judge.Add(r), a.opts.Clock()
		now := c.said
		c.mu.Unlock()
		if now != before {
			a.logHealth(c.name, before, now)
			a.tellAll()
		}
		if !sleep(ctx, jitter(upstream.ProbeEvery, a.opts.Rand)) {
			return
		}
	}
}

func (a *Agent) logHealth(name string, before, now upstream.ProbeResult) {
	switch {
	case now.Health == api.HealthUnhealthy:
		a.log.Warn("the Kubernetes cluster is unhealthy", "kube_cluster", name, "reason", now.Reason)
	case before.Health == now.Health:
	case now.Health == api.HealthUnknown:
		a.log.Warn("it is not known how the Kubernetes cluster does", "kube_cluster", name, "reason", now.Reason)
	default:
		a.log.Info("the Kubernetes cluster is healthy", "kube_cluster", name, "version", now.Version)
	}
}

// jitter is 90 to 110 % of d, so that agents don't all ask at once.
func jitter(d time.Duration, random func() float64) time.Duration {
	return time.Duration((0.9 + 0.2*random()) * float64(d))
}

// sleep waits, and says whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// clusterStates is what Hello and Status say.
func (a *Agent) clusterStates() []wire.Cluster {
	a.mu.Lock()
	labels := a.labels
	stopping := a.stopping
	a.mu.Unlock()
	out := make([]wire.Cluster, 0, len(a.clusters))
	if stopping {
		return out // it serves none any more
	}
	for _, c := range a.clusters {
		c.mu.Lock()
		out = append(out, wire.Cluster{
			Name: c.name, Labels: labels, Health: c.said.Health, Reason: c.said.Reason, Version: c.said.Version, Checked: c.checked.UTC(), CAs: c.cas,
		})
		c.mu.Unlock()
	}
	return out
}

const (
	labelTimeout   = 10 * time.Second
	maxLabelOutput = 4 << 10
	maxLabelValue  = 256
)

// watchLabels runs the commands that print labels.
func (a *Agent) watchLabels(ctx context.Context) {
	broken := map[string]bool{}
	for {
		changed := false
		for _, c := range a.opts.LabelCommands {
			value, err := c.value(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				if !broken[c.Key] { // once, until it works again
					a.log.Warn("a label's command failed; the label keeps its last value", "label", c.Key, "error", err)
				}
				broken[c.Key] = true
				continue
			}
			broken[c.Key] = false
			changed = a.setLabel(c.Key, value) || changed
		}
		if changed {
			a.tellAll()
		}
		if !sleep(ctx, a.opts.LabelCommandPeriod) {
			return
		}
	}
}

// setLabel replaces the map: others read the old one without a lock.
func (a *Agent) setLabel(key, value string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, ok := a.labels[key]; ok && old == value {
		return false
	}
	labels := maps.Clone(a.labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	a.labels = labels
	return true
}

// value is the first line that the command prints.
func (c LabelCommand) value(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, labelTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Env = withoutSecrets(os.Environ())
	out := &limited{max: maxLabelOutput}
	cmd.Stdout = out
	cmd.WaitDelay = time.Second // what it started may keep the pipe
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("it was not done within %s", labelTimeout)
		}
		return "", err
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out.kept)), "\n")
	line = strings.TrimSpace(line)
	if len(line) > maxLabelValue {
		line = strings.ToValidUTF8(line[:maxLabelValue], "")
	}
	if line == "" {
		return "", errors.New("it prints nothing")
	}
	if err := (&api.KubeCluster{Name: "x", Labels: map[string]string{c.Key: line}}).Validate(); err != nil {
		return "", err
	}
	return line, nil
}

// withoutSecrets keeps the token from the commands.
func withoutSecrets(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "SALLYPORT_AGENT_TOKEN=") {
			out = append(out, e)
		}
	}
	return out
}

// limited keeps the first bytes written to it and passes over the rest.
type limited struct {
	kept []byte
	max  int
}

func (l *limited) Write(b []byte) (int, error) {
	l.kept = append(l.kept, b[:min(l.max-len(l.kept), len(b))]...)
	return len(b), nil
}

// problemAgain is how often a problem that stays is told of.
const (
	problemAgain = 5 * time.Minute
	problemOther = 10 * time.Second
)

type told struct {
	text string
	at   time.Time
}

// problem logs what went wrong once, and again only when it is another thing or
// minutes later. The kinds are few, so this is bounded.
func (a *Agent) problem(kind string, level slog.Level, message string, args ...any) {
	now := a.opts.Clock()
	text := strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' {
			return -1 // ports and times make no other problem
		}
		return r
	}, message+fmt.Sprint(args...))
	a.mu.Lock()
	last, ok := a.told[kind]
	repeated := ok && now.Sub(last.at) < problemAgain && (last.text == text || now.Sub(last.at) < problemOther)
	if !repeated {
		a.told[kind] = told{text, now}
	}
	a.mu.Unlock()
	if repeated {
		level = slog.LevelDebug
	}
	a.log.Log(context.Background(), level, message, args...) //nolint:sloglint // the message is a constant of the caller's
}

// solved lets a problem be told of at once when it comes back.
func (a *Agent) solved(kind string) {
	a.mu.Lock()
	delete(a.told, kind)
	a.mu.Unlock()
}
