package arch

// Rules say which packages of ours each may import: only such as stand below it in this
// list. What a package needs beyond its row it asks for by a small interface of its own.
func Rules() []Rule {
	return []Rule{
		{"cmd/...", []string{"internal/server", "agent", "internal/api/...", "internal/client/...", "internal/cliapp/...", "internal/audit/chain", "internal/atomicfile"}},
		{"internal/server", []string{
			"proxy", "proxy/web", "proxy/tunnel", "sso/...", "internal/auth/...", "internal/acme", "internal/audit/...", "internal/pki",
			"internal/seal", "cluster", "cluster/peer", "fsm", "internal/api/...", "internal/wire", "internal/upstream", "internal/hclogslog", "internal/atomicfile",
		}},
		{"proxy", []string{"internal/api", "internal/auth", "internal/audit", "internal/upstream", "internal/splice", "proxy/tunnel"}},
		{"proxy/web", []string{"internal/api", "internal/auth", "internal/audit"}},
		{"proxy/tunnel", []string{"internal/api", "internal/wire", "internal/upstream", "internal/splice", "cluster/peer"}},
		{"agent", []string{"internal/api", "internal/wire", "internal/upstream", "internal/atomicfile"}},
		{"sso/...", []string{"sso/...", "internal/api"}},
		{"internal/auth/...", []string{"internal/auth/...", "internal/api", "internal/pki", "internal/seal", "fsm"}},
		{"internal/acme", []string{"fsm", "internal/api", "internal/seal"}},
		{"internal/audit/forward", []string{"internal/audit", "internal/audit/chain", "internal/api"}},
		{"internal/audit", []string{"internal/api", "internal/audit/chain"}},
		{"internal/pki", []string{"internal/api"}},
		{"internal/seal", []string{"internal/api"}},
		{"cluster/...", []string{"cluster/...", "internal/api", "internal/hclogslog", "internal/atomicfile"}},
		{"fsm", nil},
		{"internal/client/...", []string{"internal/client/...", "internal/api/...", "internal/atomicfile"}},
		{"internal/clidoc", []string{"internal/cliapp"}},
		{"internal/cliapp/settings", []string{"internal/cliapp", "internal/api"}},
		{"internal/cliapp", []string{"internal/api"}},
		{"internal/upstream", []string{"internal/api"}},
		{"internal/wire", []string{"internal/api"}},
		{"internal/api/...", []string{"internal/api"}},
		{"internal/api", nil},
		{"internal/audit/chain", nil},
		{"internal/splice", nil},
		{"internal/hclogslog", nil},
		{"internal/atomicfile", nil},
		{"internal/testport", nil},
		{"internal/arch", nil},
	}
}

// EndToEnd are the rules of e2e, a module of its own that knows the product by its binaries:
// what else it may import, tests included.
func EndToEnd() []Rule {
	return []Rule{
		{"e2e/...", []string{"e2e/..."}},
		// What the API says: the fields of documents, names of headers, kinds of errors.
		{"e2e/sallyport", []string{"e2e/...", "internal/api"}},
		{"e2e/tests", []string{"e2e/...", "internal/api"}},
		{"e2e/guide", []string{"e2e/...", "internal/api"}},
		// Thousands of agents in one process, and one without manners.
		{"e2e/load", []string{"e2e/...", "agent"}},
		{"e2e/rogue", []string{"e2e/...", "agent", "internal/api", "internal/wire"}},
		// Measures what tunnels are multiplexed by.
		{"e2e/bench/mux", []string{"e2e/...", "internal/wire"}},
	}
}

// Bans hold through any number of packages in between.
func Bans() []Ban {
	raft := []string{
		"github.com/hashicorp/raft/...", "github.com/hashicorp/raft-boltdb/...", "github.com/hashicorp/memberlist/...",
		"go.etcd.io/bbolt/...", "cluster/...", "fsm",
	}
	return []Ban{
		{"agent", raft, "the agent stays small: every node of every cluster pulls it"},
		{"cmd/tsh", raft, "tsh stays small: kubectl starts it for every command"},
		{"cmd/tctl", raft, "tctl speaks to a replica, it is none"},
		{"internal/client", raft, "the CLIs link it"},
	}
}
