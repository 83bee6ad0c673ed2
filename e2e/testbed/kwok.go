package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// StartKwok plays the kubelets of any number of made-up nodes: pods become
// Running, and exec, attach, logs and port-forward go through the real API
// server to kwok, which runs exec's command on this machine. The README lists
// what it gets wrong (exit codes, the end of stdin).
func (cp *ControlPlane) StartKwok(ctx context.Context) error {
	if _, err := os.Stat(Bin("kwok")); err != nil {
		return errors.New("kwok is not built: run e2e/testbed/build.sh kwok")
	}
	root, err := Root()
	if err != nil {
		return err
	}
	log := filepath.Join(cp.Dir, "pod.log") // what `kubectl logs` shows, in the CRI's format
	if err := os.WriteFile(log, []byte("2026-01-01T00:00:00.000000000Z stdout F a line of the pod's log\n"), 0o600); err != nil {
		return err
	}
	var config strings.Builder
	stages, err := filepath.Glob(filepath.Join(Home(), "share", "kwok", "*.yaml"))
	if err != nil {
		return err
	}
	for _, f := range append(stages, filepath.Join(root, "e2e", "testbed", "manifests", "kwok.yaml")) {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		config.WriteString(strings.ReplaceAll(string(b), "@LOG@", log))
	}
	file := filepath.Join(cp.Dir, "kwok.yaml")
	if err := os.WriteFile(file, []byte(config.String()), 0o600); err != nil {
		return err
	}
	port := strconv.Itoa(cp.port + 5)
	if err := cp.launch("kwok", []string{
		"--kubeconfig=" + cp.Kubeconfig, "--config=" + file, "--manage-all-nodes",
		"--node-lease-duration-seconds=40", "--cidr=10.0.0.1/24", "--node-ip=127.0.0.1", "--node-port=" + port,
		"--server-address=127.0.0.1:" + port,
		"--tls-cert-file=" + cp.pki("kubelet-n1.crt"), "--tls-private-key-file=" + cp.pki("kubelet-n1.key"),
	}); err != nil {
		return err
	}
	return nil
}

// AddNode makes a node up. It is Ready when StartKwok's process has seen it.
func (cp *ControlPlane) AddNode(ctx context.Context, name string) error {
	node := map[string]any{
		"apiVersion": "v1", "kind": "Node",
		"metadata": map[string]any{"name": name, "labels": map[string]string{"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
	}
	if err := cp.do(ctx, http.MethodPost, "/api/v1/nodes", node, nil); err != nil {
		return err
	}
	return Until(ctx, "node "+name, func() error {
		return cp.condition(ctx, "/api/v1/nodes/"+name, "Ready")
	})
}

// AddPod makes a pod in an existing namespace and waits until it is Ready. In a
// Minimal control plane it does the scheduler's and the controllers' part.
func (cp *ControlPlane) AddPod(ctx context.Context, namespace, name string) error {
	spec := map[string]any{"containers": []any{map[string]any{"name": "main", "image": "none.invalid/none:1"}}}
	pod := map[string]any{
		"apiVersion": "v1", "kind": "Pod", "spec": spec,
		"metadata": map[string]any{"name": name, "labels": map[string]string{"app": name}},
	}
	path := "/api/v1/namespaces/" + namespace + "/pods"
	if cp.o.Minimal {
		spec["nodeName"] = cp.o.Nodes[0].Name
		account := map[string]any{"metadata": map[string]any{"name": "default"}}
		err := cp.do(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/serviceaccounts", account, nil)
		if err != nil && !strings.Contains(err.Error(), "409") {
			return err
		}
	}
	// A namespace gets its service account a moment after it is made, and no pod before that.
	err := Until(ctx, "service account of "+namespace, func() error {
		return cp.do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/serviceaccounts/default", nil, nil)
	})
	if err != nil {
		return err
	}
	if err := cp.do(ctx, http.MethodPost, path, pod, nil); err != nil {
		return err
	}
	return Until(ctx, "pod "+namespace+"/"+name, func() error { return cp.condition(ctx, path+"/"+name, "Ready") })
}

func (cp *ControlPlane) condition(ctx context.Context, path, kind string) error {
	var object struct {
		Status struct {
			Phase      string
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := cp.do(ctx, http.MethodGet, path, nil, &object); err != nil {
		return err
	}
	for _, c := range object.Status.Conditions {
		if c.Type == kind && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("not %s: %+v", kind, object.Status)
}
