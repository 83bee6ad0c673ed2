package main

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// completeTime is how long a shell waits for candidates: longer, and whoever
// presses Tab takes it for stuck.
const completeTime = 2 * time.Second

// candidates asks a replica for them, quietly: without one there are none.
// Flags of the line being typed are not known yet.
func candidates(fn func(ctx context.Context, r *replica) []string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	w := way{socket: os.Getenv("SALLYPORT_SOCKET")}
	if w.socket == "" {
		w.proxy = os.Getenv("SALLYPORT_PROXY")
	}
	r, err := w.open(os.Getenv, time.Now())
	if err != nil {
		return nil
	}
	defer r.Close()
	return fn(ctx, r)
}

// completeKinds gives the kinds and, as KIND/NAME, what there is of them.
func completeKinds() []string {
	return append(kindNames(), candidates(func(ctx context.Context, r *replica) []string {
		all := kinds()
		names := make([][]string, len(all))
		var wg sync.WaitGroup
		for i, k := range all {
			if k.only == "" {
				wg.Go(func() { names[i] = namesOf(ctx, r, k.name) })
			}
		}
		wg.Wait()
		var refs []string
		for i, k := range all {
			for _, name := range names[i] {
				refs = append(refs, ref{k.words[0], name}.String())
			}
		}
		return refs
	})...)
}

func completeUsers(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string { return namesOf(ctx, r, api.KindUser) })
}

// completeAnyUser is completeUsers with those who come from connectors.
func completeAnyUser(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string {
		names := namesOf(ctx, r, api.KindUser)
		users, _ := r.SSOUsers(ctx) // none, then
		for _, u := range users {
			names = append(names, u.Name)
		}
		slices.Sort(names)
		return names
	})
}

func completeConnectors(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string {
		var names []string
		for _, kind := range api.ConnectorKinds() {
			names = append(names, namesOf(ctx, r, kind)...)
		}
		return names
	})
}

func completeRoles(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string { return namesOf(ctx, r, api.KindRole) })
}

func completeProxies(*cliapp.Call) []string {
	proxies, _ := profile.Known(os.Getenv)
	return proxies
}

func completeSessions(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string {
		sessions, err := r.Sessions(ctx, "")
		if err != nil {
			return nil
		}
		out := make([]string, len(sessions))
		for i := range sessions {
			out[i] = sessions[i].ID
		}
		return out
	})
}

func namesOf(ctx context.Context, r *replica, kind string) []string {
	items, err := r.List(ctx, kind, "")
	if err != nil {
		return nil
	}
	var out []string
	for _, item := range items {
		var h api.Header
		if json.Unmarshal(item, &h) == nil {
			out = append(out, h.Metadata.Name)
		}
	}
	return out
}

func completeTokens(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string { return namesOf(ctx, r, api.KindToken) })
}

func completeKubeClusters(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string { return namesOf(ctx, r, api.KindKubeCluster) })
}

func completeAgents(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) []string {
		agents, err := r.Agents(ctx)
		if err != nil {
			return nil
		}
		out := make([]string, len(agents))
		for i := range agents {
			out[i] = agents[i].ID
		}
		return out
	})
}
