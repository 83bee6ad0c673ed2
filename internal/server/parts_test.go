package server

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestOptionsSayWhatIsMissing(t *testing.T) {
	ok := Options{ClusterName: "tele.example.com", DataDir: "d"}
	for name, c := range map[string]struct {
		edit func(*Options)
		want string
	}{
		"no name":                       {func(o *Options) { o.ClusterName = "" }, "--cluster-name: give the public"},
		"a bad name":                    {func(o *Options) { o.ClusterName = "bad name" }, "--cluster-name: cluster name"},
		"no data directory":             {func(o *Options) { o.DataDir = "" }, "--data-dir"},
		"a bad address":                 {func(o *Options) { o.ListenAddr = "3080" }, "--listen-addr: \"3080\" is no address"},
		"a bad port":                    {func(o *Options) { o.PublicAddr = "h:99999" }, "--public-addr: "},
		"a key without cert":            {func(o *Options) { o.KeyFile = "k" }, "--cert-file"},
		"alone, and joining":            {func(o *Options) { o.BootstrapExpect, o.Join = 1, []string{"h:7946"} }, "contradict"},
		"nowhere to be found":           {func(o *Options) { o.BootstrapExpect = 3 }, "--peer-advertise"},
		"no host for users":             {func(o *Options) { o.PublicKubeAddr = ":3" }, "--public-kube-addr: \":3\" has no host"},
		"no host for peers":             {func(o *Options) { o.PeerAdvertise = ":7443" }, "--peer-advertise: "},
		"one port twice":                {func(o *Options) { o.DiagAddr = "127.0.0.1:3080" }, "--diag-addr: 127.0.0.1:3080 is taken by --listen-addr (:3080)"},
		"one address twice":             {func(o *Options) { o.PeerAddr, o.GossipAddr = "h:1", "h:1" }, "--gossip-addr: "},
		"a mode unknown":                {func(o *Options) { o.ProxyProtocol = "maybe" }, "--proxy-protocol: "},
		"acme with files":               {func(o *Options) { o.ACME, o.CertFile, o.KeyFile = true, "c", "k" }, "--cert-file: the certificate is either"},
		"acme for this machine":         {func(o *Options) { o.ACME, o.ClusterName = true, "localhost" }, "which is this machine's own"},
		"acme for an address":           {func(o *Options) { o.ACME, o.ClusterName = true, "10.0.0.1" }, "which is an address"},
		"acme for a word":               {func(o *Options) { o.ACME, o.ClusterName = true, "tele" }, "which is a single word"},
		"acme for a private name":       {func(o *Options) { o.ACME, o.ClusterName = true, "tele.internal" }, "which is not in the public DNS"},
		"acme for a private host":       {func(o *Options) { o.ACME, o.PublicAddr = true, "tele.local:443" }, "the host of --public-addr, \"tele.local\""},
		"acme, one port twice":          {func(o *Options) { o.ACME, o.ACMEHTTPAddr = true, ":3026" }, "--acme-http-addr: :3026 is taken by --kube-listen-addr"},
		"no e-mail address":             {func(o *Options) { o.ACMEEmail = "ops" }, "--acme-email: "},
		"an e-mail address with a name": {func(o *Options) { o.ACMEEmail = "Ops <ops@example.com>" }, "--acme-email: "},
		"a preflight of no kind":        {func(o *Options) { o.ACMEPreflight = "false" }, "--acme-preflight: "},
		"a directory without TLS":       {func(o *Options) { o.ACMEURI = "http://127.0.0.1/dir" }, "--acme-uri: "},
		"a negative delay":              {func(o *Options) { o.ShutdownDelay = -1 }, "--shutdown-delay: "},
		"a negative drain":              {func(o *Options) { o.DrainTimeout = -1 }, "--drain-timeout: "},
		"a reserved kube name":          {func(o *Options) { o.KubeClusterName = "x-1" }, "reserved"},
	} {
		o := ok
		c.edit(&o)
		if _, err := o.withDefaults(); !api.IsCode(err, api.CodeInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	none := ok
	none.Kubeconfig = "/nope"
	var wrong *OptionError
	if err := none.Check(); !errors.As(err, &wrong) || wrong.Flag != "kubeconfig" || !strings.Contains(err.Error(), "--kubeconfig: ") {
		t.Errorf("no kubeconfig: %v", err)
	}
	apart := ok
	apart.ListenAddr, apart.KubeListenAddr, apart.PeerAddr, apart.GossipAddr = "127.0.0.1:1", "127.0.0.2:1", "127.0.0.1:0", "127.0.0.2:0"
	if err := apart.Check(); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Options){
		"a private authority":  func(o *Options) { o.ClusterName, o.ACMEURI = "tele.internal", "https://acme.internal/dir" },
		"an address for users": func(o *Options) { o.PublicAddr = "10.0.0.1:443" },
		"no preflight":         func(o *Options) { o.ACMEPreflight = ACMEPreflightOff },
		"no HTTP-01":           func(o *Options) { o.ACMEHTTPAddr = ACMEHTTPOff },
		"an address and a directory": func(o *Options) {
			o.ACMEEmail, o.ACMEURI = "ops+acme@example.com", "https://acme.example.com/directory?x=1"
		},
	} {
		o := ok
		o.ACME = true
		edit(&o)
		if _, err := o.withDefaults(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	o, err := ok.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.PublicAddr != "tele.example.com:443" || o.PublicKubeAddr != "tele.example.com:3026" || o.PeerAdvertise != "127.0.0.1:7443" {
		t.Errorf("%+v", o)
	}
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "admin.sock")
	l, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := socketServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-done }()

	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "another replica") {
		t.Errorf("a live socket was taken over: %v", err)
	}
	ask := func() string {
		c, err := net.Dial("unix", path) //nolint:noctx // at once
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		b := make([]byte, 12)
		n, _ := c.Read(b)
		return string(b[:n])
	}
	if os.Getenv("SALLYPORT_TEST_SOCKET") == "" {
		if got := ask(); got != "HTTP/1.0 204" {
			t.Errorf("the owner got %q", got)
		}
	}
	if os.Getuid() != 0 {
		t.Log("as root this test would also come as another user")
		return
	}
	// A careless chmod must not be enough: the kernel tells who it is.
	for p, mode := range map[string]os.FileMode{dir: 0o755, path: 0o777} {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(dir, "self")
	bin, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, bin, 0o755); err != nil { //nolint:gosec // another user runs it
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestAskSocketAsSomebodyElse$", "-test.v")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "SALLYPORT_TEST_SOCKET="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "connected and got nothing") {
		t.Errorf("another user: %v\n%s", err, out)
	}
}

func TestSocketLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("%q %v", b, err)
	}
}

// TestAskSocketAsSomebodyElse is the other user's half of the test above.
func TestAskSocketAsSomebodyElse(t *testing.T) {
	path := os.Getenv("SALLYPORT_TEST_SOCKET")
	if path == "" {
		return
	}
	c, err := net.Dial("unix", path) //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	if n, _ := c.Read(make([]byte, 1)); n > 0 {
		t.Fatal("answered")
	}
	t.Log("connected and got nothing")
}

func TestCertificateFilesAreReadAgainWhenTheyChange(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1000, 0)
	f := &certFile{cert: filepath.Join(dir, "c"), key: filepath.Join(dir, "k"), now: func() time.Time { return now }}
	if _, err := f.load(); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("without files: %v", err)
	}
	stamp := time.Unix(500, 0)
	write := func(half bool) {
		cert, key := certPair(t)
		files := map[string][]byte{f.cert: cert, f.key: key}
		if half {
			delete(files, f.key)
		}
		stamp = stamp.Add(time.Second)
		for p, b := range files {
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(p, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(false)
	now = now.Add(certFileInterval)
	first, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	write(true) // half a renewal: certificate and key don't match
	now = now.Add(certFileInterval)
	if again, err := f.load(); err != nil || again != first {
		t.Error("half a renewal:", err)
	}
	write(false)
	if again, _ := f.load(); again != first {
		t.Error("looked again too soon")
	}
	now = now.Add(certFileInterval)
	if again, err := f.load(); err != nil || again == first {
		t.Error("a renewal was not taken:", err)
	}
}

// A Secret's mount: the files are links through ..data, which is a link to a directory of
// a time's own, and is replaced by another as a whole.
func TestACertificateFromASecretsMountIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	now := time.Unix(1000, 0)
	f := &certFile{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"), now: func() time.Time { return now }}
	same := time.Unix(500, 0) // of all: a restored volume has no newer times
	swap := func(name string) {
		t.Helper()
		cert, key := certPair(t)
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, b := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
			path := filepath.Join(dir, name, file)
			if err := errors.Join(os.WriteFile(path, b, 0o600), os.Chtimes(path, same, same)); err != nil {
				t.Fatal(err)
			}
		}
		tmp := filepath.Join(dir, "..data_tmp")
		if err := errors.Join(os.Symlink(name, tmp), os.Rename(tmp, filepath.Join(dir, "..data"))); err != nil {
			t.Fatal(err)
		}
	}
	swap("..2036_01_01")
	for _, file := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	first, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(certFileInterval)
	if again, err := f.load(); err != nil || again != first {
		t.Error("read again though nothing changed:", err)
	}
	swap("..2036_01_02")
	now = now.Add(certFileInterval)
	second, err := f.load()
	if err != nil || second == first {
		t.Error("the new certificate was not taken:", err)
	}
	// What can't be read leaves the old one in use, and is told.
	if err := os.Remove(filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certFileInterval)
	again, err := f.load()
	if problem, since := f.problem(); err != nil || again != second || problem == nil || !since.Equal(now) {
		t.Errorf("%v; problem %v since %s", err, problem, since)
	}
	swap("..2036_01_03")
	now = now.Add(certFileInterval)
	if again, err := f.load(); err != nil || again == second {
		t.Error("it does not recover:", err)
	}
	if problem, _ := f.problem(); problem != nil {
		t.Error(problem)
	}
}

func TestSecretsAreGeneratedAnew(t *testing.T) {
	a, b := GenerateSecret(), GenerateSecret()
	if string(a) == string(b) || len(a) < 40 {
		t.Errorf("%q %q", a, b)
	}
}

// certPair is a fresh certificate and its key, both PEM.
func certPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	pair := selfSigned(t)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf(pair.Certificate[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
