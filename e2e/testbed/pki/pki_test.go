package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestWriteMakesChainsThatVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	spec := Spec{
		Server: "https://127.0.0.1:1",
		IPs:    []net.IP{net.IPv4(10, 96, 0, 1)},
		Nodes:  []Node{{"n1", net.IPv4(127, 0, 0, 1)}},
	}
	if err := Write(dir, spec); err != nil {
		t.Fatal(err)
	}
	pool := func(name string) *x509.CertPool {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		if !p.AppendCertsFromPEM(b) {
			t.Fatalf("%s holds no certificate", name)
		}
		return p
	}
	for _, c := range []struct{ name, ca, dns, cn string }{
		{"apiserver", "ca", "kubernetes.default.svc", "kube-apiserver"},
		{"apiserver", "ca", "10.96.0.1", "kube-apiserver"},
		{"etcd", "ca", "127.0.0.1", "etcd"},
		{"admin", "ca", "", "admin"},
		{"front-proxy-client", "front-proxy-ca", "", "front-proxy-client"},
		{"kubelet-n1", "ca", "n1", "system:node:n1"},
	} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, c.name+".crt"), filepath.Join(dir, c.name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		if pair.Leaf.Subject.CommonName != c.cn {
			t.Errorf("%s: CN %q, want %q", c.name, pair.Leaf.Subject.CommonName, c.cn)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool(c.ca + ".crt"), DNSName: c.dns, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			t.Errorf("%s for %q: %v", c.name, c.dns, err)
		}
	}
	for _, name := range []string{"sa.key", "sa.pub", "admin.kubeconfig", "kubelet-n1.kubeconfig", "scheduler.kubeconfig"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestParseNodes(t *testing.T) {
	nodes, err := ParseNodes(" n1=10.0.0.1  n2=10.0.0.2 ")
	if err != nil || len(nodes) != 2 || nodes[1].Name != "n2" || !nodes[1].IP.Equal(net.IPv4(10, 0, 0, 2)) {
		t.Errorf("got %v, %v", nodes, err)
	}
	for _, bad := range []string{"n1", "=10.0.0.1", "n1=x"} {
		if _, err := ParseNodes(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
