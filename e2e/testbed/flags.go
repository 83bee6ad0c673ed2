package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// The command lines of a control plane. Port n of it: 0 API server, 1 and 2
// etcd, 3 controller manager, 4 scheduler, 5 kwok as kubelet; all but the
// first on loopback.

func (cp *ControlPlane) etcdURL() string { return fmt.Sprintf("https://127.0.0.1:%d", cp.port+1) }

func (cp *ControlPlane) etcdArgs() []string {
	peer := fmt.Sprintf("http://127.0.0.1:%d", cp.port+2)
	return []string{
		"--name=e0", "--data-dir=" + filepath.Join(cp.Dir, "etcd"),
		// A testbed's etcd need not survive a power cut of the real machine, whose disk may be slow.
		"--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + cp.etcdURL(), "--advertise-client-urls=" + cp.etcdURL(),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=e0=" + peer,
		"--cert-file=" + cp.pki("etcd.crt"), "--key-file=" + cp.pki("etcd.key"),
		"--trusted-ca-file=" + cp.pki("ca.crt"), "--client-cert-auth",
	}
}

const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
`

func (cp *ControlPlane) apiServerArgs() []string {
	policy := filepath.Join(cp.Dir, "audit.yaml")
	_ = os.WriteFile(policy, []byte(auditPolicy), 0o600) // the API server names the file if it is missing
	reconciler := "lease"
	if cp.host == "127.0.0.1" {
		reconciler = "none" // a loopback address can't be an endpoint of the Service kubernetes
	}
	return append([]string{
		"--bind-address=" + cp.host, "--advertise-address=" + cp.host, "--secure-port=" + strconv.Itoa(cp.port),
		"--etcd-servers=" + cp.etcdURL(), "--etcd-cafile=" + cp.pki("ca.crt"),
		"--etcd-certfile=" + cp.pki("etcd-client.crt"), "--etcd-keyfile=" + cp.pki("etcd-client.key"),
		"--endpoint-reconciler-type=" + reconciler, "--service-cluster-ip-range=" + cp.o.Services + ".0.0/16",
		"--tls-cert-file=" + cp.pki("apiserver.crt"), "--tls-private-key-file=" + cp.pki("apiserver.key"),
		"--client-ca-file=" + cp.pki("ca.crt"),
		"--requestheader-client-ca-file=" + cp.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + cp.pki("front-proxy-client.crt"), "--proxy-client-key-file=" + cp.pki("front-proxy-client.key"),
		// Webhooks and aggregated APIs go to pods, because no kube-proxy runs beside the API server.
		"--enable-aggregator-routing",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + cp.pki("sa.pub"), "--service-account-signing-key-file=" + cp.pki("sa.key"),
		"--kubelet-client-certificate=" + cp.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + cp.pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + cp.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP,Hostname",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
		"--audit-policy-file=" + policy, "--audit-log-path=" + cp.AuditLog(),
	}, cp.o.APIServerArgs...)
}

func (cp *ControlPlane) controllerManagerArgs() []string {
	grace := cp.o.Grace // after a node's last sign of life it counts as lost; Kubernetes' default is 50 s
	if grace == 0 {
		grace = 20 * time.Second
	}
	kubeconfig := cp.pki("controller-manager.kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--use-service-account-credentials", "--service-account-private-key-file=" + cp.pki("sa.key"), "--root-ca-file=" + cp.pki("ca.crt"),
		"--cluster-signing-cert-file=" + cp.pki("ca.crt"), "--cluster-signing-key-file=" + cp.pki("ca.key"),
		"--service-cluster-ip-range=" + cp.o.Services + ".0.0/16", "--allocate-node-cidrs=false", "--leader-elect=false",
		"--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(cp.port+3),
		"--node-monitor-period=2s", "--node-monitor-grace-period=" + grace.String(),
	}
}

func (cp *ControlPlane) schedulerArgs() []string {
	kubeconfig := cp.pki("scheduler.kubeconfig")
	return []string{
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=" + strconv.Itoa(cp.port+4),
	}
}
