package sallyport

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// User is a person at a machine of their own: a home directory, a kubeconfig
// and the command lines typed there.
type User struct {
	Name     string
	Password string
	Home     string // HOME; SALLYPORT_HOME and KUBECONFIG are in it
	CAFile   string // the host CA, as `tctl auth export --type=host` printed it

	cluster *Cluster
	kubectl string
	at      *Replica // of the last login
}

// AddUser makes a user (tctl users add at r, with more arguments such as
// --k8s-groups=…), sets a random password by the invite link, and gives them a home.
func (c *Cluster) AddUser(ctx context.Context, r *Replica, name string, args ...string) (*User, error) {
	invite, err := c.Invite(ctx, r, name, args...)
	if err != nil {
		return nil, err
	}
	u, err := c.NewUser(ctx, r, name)
	if err != nil {
		return nil, err
	}
	u.Password = rand.Text()
	return u, u.AcceptInvite(ctx, invite, u.Password)
}

var inviteLink = regexp.MustCompile(`https://\S+/web/invite/\S+`)

// Invite runs tctl users add and returns the link it prints.
func (c *Cluster) Invite(ctx context.Context, r *Replica, name string, args ...string) (string, error) {
	out := r.Tctl(ctx, append([]string{"users", "add", name}, args...)...)
	if out.Err != nil {
		return "", out.Err
	}
	link := inviteLink.FindString(out.Stdout)
	if link == "" {
		return "", fmt.Errorf("tctl users add %s printed no invite link: %s", name, out.Stdout)
	}
	return link, nil
}

// NewUser gives an existing user a home with the host CA in it.
func (c *Cluster) NewUser(ctx context.Context, r *Replica, name string) (*User, error) {
	u := &User{Name: name, Home: filepath.Join(c.Dir, "home-"+name), cluster: c, kubectl: testbed.Bin("kubectl")}
	if err := os.MkdirAll(u.Home, 0o700); err != nil {
		return nil, err
	}
	out := r.Tctl(ctx, "auth", "export", "--type=host")
	if out.Err != nil {
		return nil, out.Err
	}
	u.CAFile = filepath.Join(u.Home, "host-ca.pem")
	return u, os.WriteFile(u.CAFile, []byte(out.Stdout), 0o600)
}

// UseKubectl runs another kubectl than the testbed's.
func (u *User) UseKubectl(path string) { u.kubectl = path }

// Client speaks HTTPS to the replicas' web name, trusting the host CA alone.
func (u *User) Client() (*http.Client, error) {
	b, err := os.ReadFile(u.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s holds no certificate", u.CAFile)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}, nil
}

// AcceptInvite sets the password by an invite link, through the HTTP interface.
func (u *User) AcceptInvite(ctx context.Context, link, password string) error {
	at, err := url.Parse(link)
	if err != nil {
		return err
	}
	client, err := u.Client()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := json.Marshal(map[string]any{
		"token":    at.Path[strings.LastIndexByte(at.Path, '/')+1:],
		"password": []byte(password), // base64
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "https://"+at.Host+"/webapi/users/password/token", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("set the password of %s: %s: %s", u.Name, resp.Status, b)
	}
	return nil
}

// Kubeconfig is the file tsh edits.
func (u *User) Kubeconfig() string { return filepath.Join(u.Home, "kubeconfig") }

// SallyportHome is tsh's own directory.
func (u *User) SallyportHome() string { return filepath.Join(u.Home, ".sallyport") }

// Env is the environment of the user's commands.
func (u *User) Env() []string {
	env := cleanEnv(u.Home)
	for i, kv := range env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok { // kubeconfigs name tsh
			env[i] = "PATH=" + string(u.cluster.Bin) + string(os.PathListSeparator) + path
		}
	}
	return append(env, "SALLYPORT_HOME="+u.SallyportHome(), "KUBECONFIG="+u.Kubeconfig())
}

// Login runs tsh login at a replica, with the password on stdin.
func (u *User) Login(ctx context.Context, r *Replica, args ...string) testbed.Result {
	u.at = r
	args = append([]string{"login", "--proxy=" + r.WebAddr(), "--user=" + u.Name, "--ca-file=" + u.CAFile}, args...)
	return u.TshStdin(ctx, u.Password+"\n", args...)
}

// LoggedInAt says which replica a login that was not Login's was at.
func (u *User) LoggedInAt(r *Replica) { u.at = r }

// Tsh runs tsh.
func (u *User) Tsh(ctx context.Context, args ...string) testbed.Result {
	return u.TshStdin(ctx, "", args...)
}

// TshStdin is Tsh with something to read.
func (u *User) TshStdin(ctx context.Context, stdin string, args ...string) testbed.Result {
	return testbed.Run(ctx, testbed.Command{
		Args: append([]string{u.cluster.Bin.Path("tsh")}, args...), Env: u.Env(), Dir: u.Home, Stdin: strings.NewReader(stdin),
	})
}

// Tctl runs tctl at the user's own machine, where no replica's socket is: it goes by the last login of tsh, or that of --proxy.
func (u *User) Tctl(ctx context.Context, args ...string) testbed.Result {
	return u.TctlStdin(ctx, "", args...)
}

// TctlStdin is Tctl with something to read.
func (u *User) TctlStdin(ctx context.Context, stdin string, args ...string) testbed.Result {
	return testbed.Run(ctx, testbed.Command{
		Args: append([]string{u.cluster.Bin.Path("tctl")}, args...), Env: u.Env(), Dir: u.Home, Stdin: strings.NewReader(stdin),
	})
}

// Kubectl runs kubectl, which finds the replica in the kubeconfig.
func (u *User) Kubectl(ctx context.Context, args ...string) testbed.Result {
	return testbed.Run(ctx, u.kubectlCommand(args))
}

// KubeconfigAt is the user's kubeconfig with the addresses of another replica
// than the one of the login. (kubectl --server would not do: client-go then
// forgets the kubeconfig's tls-server-name, and the request has no target.)
func (u *User) KubeconfigAt(r *Replica) (string, error) {
	b, err := os.ReadFile(u.Kubeconfig())
	if err != nil {
		return "", err
	}
	moved := strings.NewReplacer(u.at.URL(), r.URL(), "https://"+u.at.KubeAddr(), "https://"+r.KubeAddr()).Replace(string(b))
	path := filepath.Join(u.Home, "kubeconfig-"+r.Name)
	return path, os.WriteFile(path, []byte(moved), 0o600)
}

// KubectlAt runs kubectl through another replica than the one of the login.
func (u *User) KubectlAt(ctx context.Context, r *Replica, args ...string) testbed.Result {
	kubeconfig, err := u.KubeconfigAt(r)
	if err != nil {
		return testbed.Result{Code: -1, Err: err}
	}
	return u.Kubectl(ctx, append([]string{"--kubeconfig=" + kubeconfig}, args...)...)
}

// StartKubectl leaves kubectl running (get -w, exec, logs -f, port-forward); its output goes to the file log.
func (u *User) StartKubectl(log string, args ...string) (*testbed.Process, error) {
	c := u.kubectlCommand(args)
	c.Name, c.Log = "kubectl", log
	return testbed.StartProcess(c)
}

func (u *User) kubectlCommand(args []string) testbed.Command {
	return testbed.Command{Args: append([]string{u.kubectl}, args...), Env: u.Env(), Dir: u.Home}
}
