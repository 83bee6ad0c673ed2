// Package pki writes the certificates of a test control plane: a CA, the
// front-proxy CA, the service account key, serving and client certificates and
// a kubeconfig for each component. It uses the standard library alone, so that
// a demo needs neither openssl nor root.
//
// Nothing here is fit for production: keys lie unencrypted beside each other,
// and one CA signs everything.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Node is a kubelet that gets a serving and a client certificate.
type Node struct {
	Name string
	IP   net.IP
}

// Spec says for whom Write makes certificates.
type Spec struct {
	Server string   // URL in the kubeconfigs
	IPs    []net.IP // of the API server and etcd, besides 127.0.0.1
	Nodes  []Node
}

// validity is one year: no testbed lives longer.
const validity = 365 * 24 * time.Hour

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// writer remembers the first failure, so that a list of files reads as one.
type writer struct {
	dir string
	now time.Time
	err error
}

// Write fills dir (mode 0700, files 0600) and returns the first failure.
func Write(dir string, spec Spec) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	w := &writer{dir: dir, now: time.Now()}
	ca := w.authority("ca", "testbed-ca")
	front := w.authority("front-proxy-ca", "testbed-front-proxy-ca")
	w.serviceAccountKey()
	if w.err != nil {
		return w.err
	}

	ips := append([]net.IP{net.IPv4(127, 0, 0, 1)}, spec.IPs...)
	local := []string{"localhost"}
	api := append(local[:1:1], "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	w.leaf("apiserver", ca, pkix.Name{CommonName: "kube-apiserver"}, api, ips)
	w.leaf("etcd", ca, pkix.Name{CommonName: "etcd"}, local, ips)
	w.leaf("etcd-client", ca, pkix.Name{CommonName: "kube-apiserver-etcd-client"}, nil, nil)
	masters := []string{"system:masters"}
	w.leaf("apiserver-kubelet-client", ca, pkix.Name{Organization: masters, CommonName: "kube-apiserver-kubelet-client"}, nil, nil)
	w.leaf("front-proxy-client", front, pkix.Name{CommonName: "front-proxy-client"}, nil, nil)
	for name, subject := range map[string]pkix.Name{
		"admin":              {Organization: masters, CommonName: "admin"},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":         {CommonName: "system:kube-proxy"},
	} {
		w.leaf(name, ca, subject, nil, nil)
		w.kubeconfig(name, spec.Server)
	}
	for _, n := range spec.Nodes {
		name := "kubelet-" + n.Name
		w.leaf(name, ca, pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + n.Name}, []string{n.Name}, []net.IP{n.IP})
		w.kubeconfig(name, spec.Server)
	}
	return w.err
}

func (w *writer) fail(err error) bool {
	if w.err == nil {
		w.err = err
	}
	return w.err != nil
}

func (w *writer) file(name string, content []byte) {
	if w.err == nil {
		w.err = os.WriteFile(filepath.Join(w.dir, name), content, 0o600)
	}
}

func (w *writer) key(name string) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if w.fail(err) {
		return nil
	}
	der, err := x509.MarshalECPrivateKey(key)
	if w.fail(err) {
		return nil
	}
	w.file(name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	return key
}

func (w *writer) template(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	w.fail(err)
	// A minute early: clocks of two processes started together may still differ by a tick.
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: w.now.Add(-time.Minute), NotAfter: w.now.Add(validity)}
}

func (w *writer) authority(name, cn string) authority {
	key := w.key(name)
	t := w.template(pkix.Name{CommonName: cn})
	if w.err != nil {
		return authority{}
	}
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if w.fail(err) {
		return authority{}
	}
	w.file(name+".crt", certPEM(der))
	cert, err := x509.ParseCertificate(der)
	w.fail(err)
	return authority{cert, key}
}

func (w *writer) leaf(name string, by authority, subject pkix.Name, dns []string, ips []net.IP) {
	key := w.key(name)
	t := w.template(subject)
	if w.err != nil {
		return
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	t.DNSNames, t.IPAddresses = dns, ips
	der, err := x509.CreateCertificate(rand.Reader, t, by.cert, key.Public(), by.key)
	if w.fail(err) {
		return
	}
	w.file(name+".crt", certPEM(der))
}

// serviceAccountKey is RSA, because that is what clusters have and what
// issuers' key sets are read as by old clients.
func (w *writer) serviceAccountKey() {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if w.fail(err) {
		return
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if w.fail(err) {
		return
	}
	w.file("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	w.file("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
}

// kubeconfig holds its keys inside, so that the file can be copied.
func (w *writer) kubeconfig(user, server string) {
	var data [3]string
	for i, name := range []string{"ca.crt", user + ".crt", user + ".key"} {
		b, err := os.ReadFile(filepath.Join(w.dir, name))
		if w.fail(err) {
			return
		}
		data[i] = base64.StdEncoding.EncodeToString(b)
	}
	w.file(user+".kubeconfig", fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: testbed, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: %[3]s, user: {client-certificate-data: %[4]s, client-key-data: %[5]s}}]
contexts: [{name: testbed, context: {cluster: testbed, user: %[3]s}}]
current-context: testbed
`, server, data[0], user, data[1], data[2]))
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// ParseNodes reads "NAME=IP" words.
func ParseNodes(words string) ([]Node, error) {
	var nodes []Node
	for word := range strings.FieldsSeq(words) {
		name, ip, _ := strings.Cut(word, "=")
		n := Node{name, net.ParseIP(ip)}
		if n.Name == "" || n.IP == nil {
			return nil, fmt.Errorf("node %q: want NAME=IP", word)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}
