// Package load runs thousands of agents in one process against real replicas:
// real joins, real TLS handshakes, real tunnels, and clusters that are made up.
// It measures what an idle agent costs a replica, how long it takes until all
// agents are back after a replica was killed, and what users notice meanwhile.
//
// It is the one package of this module that imports the product, and of that the
// agent alone: what is simulated must be what is shipped. Each agent comes from a
// network of loopback of its own, as agents in the field do, so that limits for
// one address bind none of them; limits for all do.
//
// The machine needs a file descriptor per tunnel in this process (10,000 tunnels
// for 5,000 agents), and about a third of them in each replica.
package load
