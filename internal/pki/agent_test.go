package pki

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var pod = AgentIdentity{ID: strings.Repeat("0f", 16), Generation: 3, ClusterName: cluster}

func signAgent(t testing.TB, ca *Authority, id AgentIdentity) *x509.Certificate {
	t.Helper()
	der, err := ca.SignAgent(newKey(t).Public(), id, now.Add(-ClockSkew), now.Add(7*24*time.Hour))
	return parse(t, der, err)
}

func TestAgentCertificateRoundTrips(t *testing.T) {
	ca := newCA(t, AgentCA, cluster)
	for _, generation := range []uint64{1, 2, 10, math.MaxUint64} {
		id := pod
		id.Generation, id.NotAfter = generation, now.Add(7*24*time.Hour)
		got, err := VerifyAgent([]*x509.Certificate{signAgent(t, ca, id)}, []*x509.Certificate{ca.Cert}, cluster, now)
		if err != nil {
			t.Fatal(generation, err)
		}
		if d := cmp.Diff(id, got); d != "" {
			t.Error(d)
		}
	}
}

func TestSignAgentRefusesWhatIsNoIdentity(t *testing.T) {
	ca := newCA(t, AgentCA, cluster)
	for _, id := range []AgentIdentity{
		{ID: "", Generation: 1, ClusterName: cluster}, {ID: "pod-0", Generation: 1, ClusterName: cluster}, {ID: strings.ToUpper(pod.ID), Generation: 1, ClusterName: cluster}, {ID: pod.ID + "00", Generation: 1, ClusterName: cluster},
		{ID: pod.ID[:30] + "/1", Generation: 1, ClusterName: cluster}, {ID: pod.ID, Generation: 0, ClusterName: cluster}, {ID: pod.ID, Generation: 1, ClusterName: "other.example.com"},
	} {
		if _, err := ca.SignAgent(newKey(t).Public(), id, now, now.Add(time.Hour)); err == nil {
			t.Errorf("signed %+v", id)
		}
	}
}

// CVE-2025-49825: whose certificate it is comes from the CA that verified it.
func TestAgentUserAndHostAreNeverConfused(t *testing.T) {
	user, host, agent := newCA(t, UserCA, cluster), newCA(t, HostCA, cluster), newCA(t, AgentCA, cluster)
	foreign, elsewhere := newCA(t, AgentCA, cluster), newCA(t, AgentCA, "other.example.com")
	userLeaf, agentLeaf := signUser(t, user, alice), signAgent(t, agent, pod)
	der, err := host.SignHost(newKey(t).Public(), []string{"tunnel." + cluster}, nil, now.Add(-ClockSkew), now.Add(time.Hour))
	hostLeaf := parse(t, der, err)
	other := pod
	other.ClusterName = "other.example.com"
	otherLeaf := signAgent(t, elsewhere, other)
	agents, users := []*x509.Certificate{agent.Cert}, []*x509.Certificate{user.Cert}
	all := []*x509.Certificate{agent.Cert, user.Cert, host.Cert}
	for _, tc := range []struct {
		name string
		peer []*x509.Certificate
		cas  []*x509.Certificate
	}{
		{"nobody", nil, agents},
		{"user certificate as an agent", []*x509.Certificate{userLeaf}, agents},
		{"user certificate, user CA in the agent pool", []*x509.Certificate{userLeaf}, users},
		{"agent certificate, pool with other CAs", []*x509.Certificate{agentLeaf}, all},
		{"host certificate as an agent", []*x509.Certificate{hostLeaf}, agents},
		{"host certificate, host CA in the agent pool", []*x509.Certificate{hostLeaf}, []*x509.Certificate{host.Cert}},
		{"agent of another cluster's CA of the same name", []*x509.Certificate{signAgent(t, foreign, pod)}, agents},
		{"agent of another cluster", []*x509.Certificate{otherLeaf}, agents},
		{"another cluster's CA in the pool", []*x509.Certificate{otherLeaf}, []*x509.Certificate{elsewhere.Cert}},
		{"the CA as a leaf", []*x509.Certificate{agent.Cert}, agents},
		{"leaf and CA as two certificates", []*x509.Certificate{agentLeaf, agent.Cert}, agents},
		{"a leaf as CA in the pool", []*x509.Certificate{agentLeaf}, []*x509.Certificate{agentLeaf}},
	} {
		if id, err := VerifyAgent(tc.peer, tc.cas, cluster, now); err == nil {
			t.Errorf("%s: accepted as %+v", tc.name, id)
		}
	}
	for name, cas := range map[string][]*x509.Certificate{"user CA": users, "agent CA in the user pool": agents} {
		if id, err := VerifyUser([]*x509.Certificate{agentLeaf}, cas, cluster, now); err == nil {
			t.Errorf("agent certificate as a user, %s: accepted as %+v", name, id)
		}
	}
	// As a replica: clients of host certificates verify names, for server authentication.
	if _, err := agentLeaf.Verify(x509.VerifyOptions{Roots: poolOf(all...), DNSName: "tunnel." + cluster, CurrentTime: now}); err == nil {
		t.Error("agent certificate as a replica: accepted")
	}
	for name, try := range map[string]func() error{
		"user CA signs an agent": func() error {
			_, err := user.SignAgent(newKey(t).Public(), pod, now, now.Add(time.Hour))
			return err
		},
		"host CA signs an agent": func() error {
			_, err := host.SignAgent(newKey(t).Public(), pod, now, now.Add(time.Hour))
			return err
		},
		"agent CA signs a user": func() error {
			_, err := agent.SignUser(newKey(t).Public(), alice, now, now.Add(time.Hour))
			return err
		},
		"agent CA signs a host": func() error {
			_, err := agent.SignHost(newKey(t).Public(), []string{cluster}, nil, now, now.Add(time.Hour))
			return err
		},
	} {
		if try() == nil {
			t.Error(name)
		}
	}
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

func TestAgentOfANestedChainIsRefused(t *testing.T) {
	ca := newCA(t, AgentCA, cluster)
	key := newKey(t)
	marker, _ := markerExtension(AgentCA)
	template := &x509.Certificate{
		Subject: ca.Cert.Subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, ExtraExtensions: []pkix.Extension{marker},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, key.Public(), ca.Signer)
	sub := &Authority{Type: AgentCA, ClusterName: cluster, Cert: parse(t, der, err), Signer: key}
	leaf := signAgent(t, sub, pod)
	for _, peer := range [][]*x509.Certificate{{leaf}, {leaf, sub.Cert}, {sub.Cert}} {
		if id, err := VerifyAgent(peer, []*x509.Certificate{ca.Cert}, cluster, now); err == nil {
			t.Errorf("%d certificates: accepted as %+v", len(peer), id)
		}
	}
	// A leaf that signs another: what an agent with its own key could try.
	leafKey := newKey(t)
	der, err = ca.SignAgent(leafKey.Public(), pod, now, now.Add(time.Hour))
	issuer := &Authority{Type: AgentCA, ClusterName: cluster, Cert: parse(t, der, err), Signer: leafKey}
	other := pod
	other.ID = strings.Repeat("ee", 16)
	der, err = issuer.SignAgent(newKey(t).Public(), other, now, now.Add(time.Minute))
	forged := parse(t, der, err)
	for _, peer := range [][]*x509.Certificate{{forged}, {forged, issuer.Cert}} {
		if id, err := VerifyAgent(peer, []*x509.Certificate{ca.Cert}, cluster, now); err == nil {
			t.Errorf("accepted as %+v", id)
		}
	}
}

func forgeAgent(t *testing.T, ca *Authority, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	marker, _ := markerExtension(AgentCA)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: pod.ID}, URIs: []*url.URL{pod.uri()},
		NotBefore: now.Add(-ClockSkew), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, ExtraExtensions: []pkix.Extension{marker},
	}
	edit(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, newKey(t).Public(), ca.Signer)
	return parse(t, der, err)
}

func TestParseAgentRefusesWhatSignAgentWouldNotWrite(t *testing.T) {
	ca := newCA(t, AgentCA, cluster)
	userMarker, _ := markerExtension(UserCA)
	good := pod.uri().String()
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}
	for name, edit := range map[string]func(*x509.Certificate){
		"two agent URIs":      func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"no URI":              func(c *x509.Certificate) { c.URIs = nil },
		"a session's URI":     func(c *x509.Certificate) { c.URIs = []*url.URL{alice.uri()} },
		"another scheme":      uri("spiffe" + strings.TrimPrefix(good, uriScheme)),
		"another cluster":     uri(strings.Replace(good, cluster, "other.example.com", 1)),
		"no generation":       uri(strings.TrimSuffix(good, "/3")),
		"generation 0":        uri(strings.TrimSuffix(good, "3") + "0"),
		"generation 03":       uri(strings.TrimSuffix(good, "3") + "03"),
		"generation +3":       uri(strings.TrimSuffix(good, "3") + "+3"),
		"generation beyond":   uri(good + "3333333333333333333333"),
		"more path":           uri(good + "/4"),
		"a final slash":       uri(good + "/"),
		"query":               uri(good + "?a=b"),
		"fragment":            uri(good + "#a"),
		"escaped path":        uri(strings.Replace(good, "/agent", "/%61gent", 1)),
		"another id":          uri(strings.Replace(good, pod.ID, strings.Repeat("11", 16), 1)),
		"upper-case id":       uri(strings.Replace(good, pod.ID, strings.ToUpper(pod.ID), 1)),
		"another subject":     func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("11", 16) },
		"an organization":     func(c *x509.Certificate) { c.Subject.Organization = []string{"system:masters"} },
		"extra DNS name":      func(c *x509.Certificate) { c.DNSNames = []string{cluster} },
		"extra address":       func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		"CA":                  func(c *x509.Certificate) { c.IsCA = true },
		"may sign":            func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"server auth as well": func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"no marker":           func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"user marker":         func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{userMarker} },
	} {
		if id, err := ParseAgent(forgeAgent(t, ca, edit), cluster); err == nil {
			t.Errorf("%s: accepted as %+v", name, id)
		}
	}
	if _, err := ParseAgent(forgeAgent(t, ca, func(*x509.Certificate) {}), cluster); err != nil {
		t.Fatal("the unedited template should pass:", err)
	}
}
