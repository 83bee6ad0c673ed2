package kubeconfig

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/atomicfile"
)

// Entry is the way to one Kubernetes cluster: a cluster, a user and a context,
// all three of that name.
type Entry struct {
	Name          string
	Server        string // https://host:port[/path]
	TLSServerName string // SNI; empty: the server's host
	CAs           []byte // PEM
	Command       string // absolute path of tsh
	Args          []string
	Env           []EnvVar
	// Cert and Key (PEM) stand in the file itself, instead of a command that gives them:
	// see Static.
	Cert, Key []byte
}

// EnvVar is a variable that kubectl sets for the command.
type EnvVar struct{ Name, Value string }

// Edit is a change of a kubeconfig.
type Edit struct {
	Set []Entry // entries to add or renew
	// Proxy names whose other entries go: those of ours that log in there and
	// are not in Set. Empty: none.
	Proxy string
	// Select is the context to make current, unless the present one is foreign
	// or among Set; with Force, in any case. Empty: leave it.
	Select string
	Force  bool
	Stay   bool // a context of ours that logs in elsewhere is left in force as a foreign one is
	// Exclusive refuses names that entries of another Proxy have, rather than to take
	// them over.
	Exclusive bool
}

// Result says what kubectl does after an edit.
type Result struct {
	Path    string
	Current string // the context in force; "" if none
	Foreign bool   // it exists and isn't ours
}

// Location is the list of files that kubectl merges; the first is written.
type Location []string

// Locate finds them as kubectl does: KUBECONFIG, else ~/.kube/config.
func Locate(getenv func(string) string) (Location, error) {
	var files Location
	for _, path := range filepath.SplitList(getenv("KUBECONFIG")) {
		if path == "" {
			continue
		}
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", path, err)
		}
		files = append(files, abs)
	}
	if len(files) > 0 {
		return files, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "no home directory (%w): name a kubeconfig with KUBECONFIG", err)
	}
	return Location{filepath.Join(home, ".kube", "config")}, nil
}

// Current is the context in force in these files, and whether it is ours.
func (l Location) Current() (Result, error) {
	files, err := l.read()
	if err != nil {
		return Result{}, err
	}
	return l.result(files), nil
}

// Apply edits the first file.
func (l Location) Apply(ctx context.Context, edit Edit) (Result, error) {
	path := l[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Result{}, fmt.Errorf("write the kubeconfig: %w", err)
	}
	unlock, err := lock(ctx, path)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	files, err := l.read()
	if err != nil {
		return Result{}, err
	}
	before := files[0].src
	after, err := edit.apply(path, files)
	if err != nil {
		return Result{}, err
	}
	if !bytes.Equal(before, after) {
		if err := write(path, after); err != nil {
			return Result{}, err
		}
	}
	if files[0], err = parse(path, after); err != nil {
		return Result{}, err
	}
	return l.result(files), nil
}

func (l Location) read() ([]*file, error) {
	files := make([]*file, len(l))
	for i, path := range l {
		src, err := os.ReadFile(path) //nolint:gosec // the user's kubeconfig, wherever KUBECONFIG says
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the kubeconfig: %w", err)
		}
		if files[i], err = parse(path, src); err != nil {
			if i > 0 {
				files[i] = &file{} // kubectl will complain; it isn't ours to write
				continue
			}
			return nil, err
		}
	}
	return files, nil
}

func (l Location) result(files []*file) Result {
	current := currentContext(files)
	return Result{Path: l[0], Current: current, Foreign: current != "" && !isOurs(files, current)}
}

// currentContext is the first one set, as kubectl merges; one that no file has
// is as good as none.
func currentContext(files []*file) string {
	for _, f := range files {
		if name := f.current(); name != "" {
			if !slices.ContainsFunc(files, func(f *file) bool { return f.item("contexts", name) != nil }) {
				return ""
			}
			return name
		}
	}
	return ""
}

func isOurs(files []*file, name string) bool {
	return slices.ContainsFunc(files, func(f *file) bool { _, ours := f.owner(name); return ours })
}

func write(path string, content []byte) error {
	perm := fs.FileMode(0o600)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // a link into somebody's dotfiles stays a link
	}
	if info, err := os.Stat(path); err == nil {
		perm = info.Mode().Perm()
	}
	return atomicfile.Write(path, content, perm)
}

const (
	lockPatience = 10 * time.Second
	lockPoll     = 20 * time.Millisecond
)

// lock takes the lock of client-go: a file beside the kubeconfig whose creation
// is exclusive. kubectl gives up at once if it exists; we wait.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	name := path + ".lock"
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // beside the user's kubeconfig
		if err == nil {
			_ = f.Close()
			return func() { _ = os.Remove(name) }, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("lock the kubeconfig: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, ctx.Err()
			}
			return nil, api.Errorf(api.CodeUnavailable, "%s exists: another program is changing the kubeconfig, or died while it did; remove that file if none is running", name)
		}
	}
}

// item is the wanted form of an element of a list, with what stood there kept.
func (e *Entry) item(list string, old *yaml.Node) *yaml.Node {
	item := mapping("name", text(e.Name))
	if old != nil {
		item = clone(old)
	}
	switch list {
	case "clusters":
		body := child(item, "cluster")
		put(body, "certificate-authority-data", text(base64.StdEncoding.EncodeToString(e.CAs)))
		put(body, "server", text(e.Server))
		drop(body, "certificate-authority")
		drop(body, "insecure-skip-tls-verify")
		if e.TLSServerName != "" {
			put(body, "tls-server-name", text(e.TLSServerName))
		} else {
			drop(body, "tls-server-name")
		}
	case "contexts": // namespace and extensions are the user's
		body := child(item, "context")
		put(body, "cluster", text(e.Name))
		put(body, "user", text(e.Name))
	case "users":
		if len(e.Cert) > 0 {
			user := child(item, "user")
			put(user, "client-certificate-data", text(base64.StdEncoding.EncodeToString(e.Cert)))
			put(user, "client-key-data", text(base64.StdEncoding.EncodeToString(e.Key)))
			break
		}
		exec := child(child(item, "user"), "exec")
		put(exec, "apiVersion", text("client.authentication.k8s.io/v1"))
		put(exec, "command", text(e.Command))
		put(exec, "args", texts(e.Args))
		if len(e.Env) > 0 {
			env := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			for _, v := range e.Env {
				env.Content = append(env.Content, mapping("name", text(v.Name), "value", text(v.Value)))
			}
			put(exec, "env", env)
		} else {
			drop(exec, "env")
		}
		put(exec, "interactiveMode", text("IfAvailable"))
		put(exec, "provideClusterInfo", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "false"})
	}
	return item
}

// ownerProxy is the proxy at which a user of a kubeconfig logs in, if tsh made it.
func ownerProxy(user *yaml.Node) (proxy string, ours bool) {
	args := value(value(value(user, "user"), "exec"), "args")
	if args == nil || args.Kind != yaml.SequenceNode || len(args.Content) < 2 ||
		args.Content[0].Value != "kube" || args.Content[1].Value != "credentials" {
		return "", false
	}
	kube := false
	for _, arg := range args.Content[2:] {
		if v, ok := strings.CutPrefix(arg.Value, "--proxy="); ok {
			proxy = v
		}
		kube = kube || strings.HasPrefix(arg.Value, "--kube-cluster=")
	}
	return proxy, kube && proxy != ""
}
