package testbed

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What cp.sh and kwok.sh do: control planes by name that outlive the command.

// detachedDir refuses names that would leave the run directory.
func detachedDir(name string) (string, error) {
	if name == "" || strings.ContainsAny(name, "/\\") || name[0] == '.' {
		return "", fmt.Errorf("control plane name %q: letters and digits", name)
	}
	return filepath.Join(runDir(), "cp-"+name), nil
}

// Up starts the control plane NAME at the given port and leaves it running.
func Up(ctx context.Context, name string, port int, o Options) (*ControlPlane, error) {
	dir, err := detachedDir(name)
	if err != nil {
		return nil, err
	}
	if _, ok := detachedPID(filepath.Join(dir, "pid", "kube-apiserver")); ok {
		return nil, fmt.Errorf("%s is up", name)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "port"), []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return nil, err
	}
	o.Dir, o.Port, o.Detached = dir, port, true
	return Start(ctx, o)
}

// Attach finds a control plane that Up has started.
func Attach(name string) (*ControlPlane, error) {
	dir, err := detachedDir(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "port"))
	if err != nil {
		return nil, fmt.Errorf("%s is not up", name)
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, err
	}
	cp := &ControlPlane{Dir: dir, host: "127.0.0.1", port: port, o: Options{Detached: true, Dir: dir}}
	cp.URL, cp.Kubeconfig = fmt.Sprintf("https://127.0.0.1:%d", port), cp.pki("admin.kubeconfig")
	return cp, cp.certificates()
}

// Down ends the control plane NAME and removes its directory.
func Down(name string) error {
	dir, err := detachedDir(name)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "pid", "*"))
	if err != nil {
		return err
	}
	StopDetached(time.Second, files...)
	return os.RemoveAll(dir)
}

// StopKwok ends kwok of a detached control plane.
func (cp *ControlPlane) StopKwok() {
	StopDetached(time.Second, filepath.Join(cp.Dir, "pid", "kwok"))
}
