package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client"
	"github.com/sallyport-dev/sallyport/internal/client/kubeconfig"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

const (
	// toStdout is the FILE that is none.
	toStdout = "-"
	// clockSlack is by how much two machines' clocks may differ before a certificate
	// counts as shorter than was asked for.
	clockSlack = 5 * time.Minute
	// endPatience is how long to try to end a session whose file could not be written.
	endPatience = 10 * time.Second
)

func signCommand() cliapp.Command {
	return cliapp.Command{
		Name: "sign", Usage: "make a kubeconfig for a user who does not log in",
		Description: "It holds a key, made here, and a certificate of the user's: keep it as you would\na password. The user needs none. It is good for --ttl (a year at most), or for\n" +
			"less if a role of the user's has a max_session_ttl, and ends at once with\n'tctl sessions rm', or with the user. Signing again ends nothing: do it in time.\n\n" +
			"A file that this command made for the same user is replaced, another one only\nwith --overwrite. With --out=- nothing else is written, so that it can be piped.\n\n" +
			"On a replica's machine, --proxy is not the way to a replica but the address that\nthe kubeconfig gets. Elsewhere you need the verb impersonate on the kind user,\nwhich \"*\" does not include: it is as good as being every user.",
		Examples: []string{
			"tctl auth sign --user=ci --out=ci.yaml --ttl=25h",
			"tctl auth sign --user=ci --out=- --kube-cluster-name=cookie | kubectl create secret generic ci --from-file=kubeconfig=/dev/stdin",
		},
		Flags: []cliapp.Flag{
			{Name: "user", Usage: "for `USER`, who must have been added here", Complete: completeUsers},
			{Name: "out", Aliases: []string{"o"}, Usage: "write `FILE`, for its owner alone to read; - is standard output"},
			{Name: "ttl", Kind: cliapp.Duration, Default: "12h", Max: api.MaxSignTTL, Usage: "good for `DURATION`"},
			{Name: "format", Usage: "write it as `FORMAT`", Values: []string{"kubernetes"}, Default: "kubernetes"},
			{Name: "kube-cluster-name", Usage: "for Kubernetes cluster `NAME`; default the replicas' own", Complete: completeKubeClusters},
			{Name: "overwrite", Kind: cliapp.Bool, Usage: "replace FILE, whatever it is"},
		},
		Run: sign,
	}
}

// signing is what was asked for, and what became of it.
type signing struct {
	c         *cliapp.Call
	r         *replica
	user, out string
	server    string // host:port
	kube      string
	notes     []string // what may not have been meant
}

func sign(ctx context.Context, c *cliapp.Call) error {
	s := &signing{c: c, user: c.String("user"), out: c.String("out")}
	switch {
	case s.user == "":
		return api.Errorf(api.CodeInvalid, "--user is missing: say for whom ('tctl users ls' lists users)")
	case s.out == "":
		return api.Errorf(api.CodeInvalid, "--out is missing: name the file to write, or - for standard output")
	}
	if err := checkUser(s.user); err != nil {
		return err
	}
	if s.out != toStdout {
		if err := kubeconfig.CheckStatic(s.out, s.user, c.Bool("overwrite")); err != nil {
			return err
		}
	}
	w, server, err := signWay(c)
	if err != nil {
		return err
	}
	s.server = server
	return withReplicaBy(c, w, s.out == toStdout, func(r *replica) error {
		s.r = r
		return s.run(ctx)
	})
}

// signWay is wayOf, but that --proxy is the address to be written where a replica can be
// reached by its socket, as it is in Teleport's command.
func signWay(c *cliapp.Call) (w way, server string, err error) {
	if !c.Typed("proxy") {
		w, err = wayOf(c)
		return w, "", err
	}
	home, _ := os.UserHomeDir() // "": none, and then no socket in it
	here := slices.ContainsFunc(client.Sockets(os.Getenv, home), func(path string) bool { _, err := os.Stat(path); return err == nil })
	socket := c.String("socket")
	if socket == "" && !here {
		w, err = wayOf(c)
		return w, "", err
	}
	if server, err = profile.ProxyAddr(c.String("proxy")); err != nil {
		return way{}, "", api.Errorf(api.CodeInvalid, "--proxy: %w", err)
	}
	w = way{socket: socket}
	if socket != "" {
		w.from, w.typed = c.Source("socket"), c.Typed("socket")
	}
	return w, server, nil
}

func (s *signing) run(ctx context.Context) error {
	if err := s.aim(ctx); err != nil {
		return err
	}
	ttl := time.Duration(0) // as the replica has it
	if s.c.IsSet("ttl") {
		ttl = s.c.Duration("ttl")
	}
	resp, creds, err := s.r.Sign(ctx, s.user, ttl)
	if err != nil {
		return err
	}
	if resp.Expires.Before(time.Now().Add(ttl - clockSlack)) {
		s.notes = append(s.notes, fmt.Sprintf("it is good for less than %s: max_session_ttl of a role of user %q says so", s.c.Text("ttl"), s.user))
	}
	if len(resp.KubeGroups)+len(resp.KubeUsers) == 0 {
		s.notes = append(s.notes, fmt.Sprintf("no role gives user %q a Kubernetes group or user, so kubectl is refused until one does: tctl users update %s --k8s-groups=GROUP", s.user, s.user))
	}
	content, err := kubeconfig.Static(kubeconfig.Entry{
		Name: s.kube, Server: "https://" + s.server, TLSServerName: api.KubeServerName(s.kube, resp.ClusterName),
		CAs: creds.HostCAs, Cert: creds.CertPEM, Key: creds.KeyPEM,
	}, s.comments(resp)...)
	if err == nil {
		err = s.write(content)
	}
	if err != nil {
		return errors.Join(err, s.undo(ctx, resp.SessionID))
	}
	if s.out == toStdout {
		return nil // whoever pipes it through kubectl exec -ti would get what is said beside, too
	}
	for _, note := range s.notes {
		s.c.Warnf("%s", note)
	}
	s.c.Printf("The credentials of user %q for Kubernetes cluster %q have been written to %s; they are good until %s, or until 'tctl sessions rm %s'\n",
		s.user, s.kube, s.out, client.Minute(resp.Expires)+" UTC", resp.SessionID)
	return nil
}

// comments begin the file: it will be found where nobody remembers whose it is.
func (s *signing) comments(resp *api.LoginResponse) []string {
	out := []string{
		fmt.Sprintf("Credentials of user %s, made by 'tctl auth sign' for %s.", s.user, resp.ClusterName),
		fmt.Sprintf("Good until %s UTC; to end them at once: tctl sessions rm %s", client.Minute(resp.Expires), resp.SessionID),
	}
	for _, note := range s.notes {
		out = append(out, "WARNING: "+note)
	}
	return out
}

// aim finds out which Kubernetes cluster the file is for, and by which address.
func (s *signing) aim(ctx context.Context) error {
	ping, err := s.r.Ping(ctx)
	if err != nil {
		return err
	}
	if s.server == "" {
		if s.server, err = profile.ProxyAddr(cmp.Or(ping.Proxy.Kube.PublicAddr, ping.ClusterName)); err != nil {
			return api.Errorf(api.CodeInternal, "the replica names %q as its address for kubectl, which is none: give one with --proxy", ping.Proxy.Kube.PublicAddr)
		}
	}
	clusters, err := s.r.KubeClusters(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(clusters))
	own := ""
	for i, k := range clusters {
		names[i] = k.Name
		if k.Status != nil && k.Status.Own || own == "" && k.Name == ping.ClusterName {
			own = k.Name
		}
	}
	s.kube = cmp.Or(s.c.String("kube-cluster-name"), own)
	if slices.Contains(names, s.kube) {
		return nil
	}
	choice := "there is none yet"
	if len(names) > 0 {
		slices.Sort(names)
		choice = "there are " + strings.Join(names, ", ")
	}
	if s.kube == "" {
		return api.Errorf(api.CodeInvalid, "the replicas have no Kubernetes cluster of their own: say which with --kube-cluster-name (%s)", choice)
	}
	return api.Errorf(api.CodeNotFound, "kubernetes cluster %q not found (%s)", s.kube, choice)
}

func (s *signing) write(content []byte) error {
	if s.out != toStdout {
		return kubeconfig.WriteStatic(s.out, content)
	}
	if _, err := s.c.Stdout.Write(content); err != nil {
		return fmt.Errorf("write the kubeconfig: %w", err)
	}
	return nil
}

// undo ends a session whose key nobody has.
func (s *signing) undo(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err := s.r.EndSession(ctx, s.user, id); err != nil {
		return fmt.Errorf("nobody has its key, but its session lives: tctl sessions rm %s (%w)", id, err)
	}
	return nil
}
