package browser

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Find returns the path of a Chromium or Chrome.
func Find() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no chromium in PATH (Debian: apt-get install chromium)")
}

// Browser is a window with an empty profile.
type Browser struct{ ctx context.Context } //nolint:containedctx // chromedp keeps the window in one

// Start opens a browser that ends with the test. It trusts what the servers at
// addrs show, once that is verified to be signed by the authority in caFile (PEM).
func Start(ctx context.Context, tb testbed.TB, caFile string, addrs ...string) *Browser {
	tb.Helper()
	path, err := Find()
	if err != nil {
		tb.Fatalf("%v", err)
	}
	pins, err := spki(ctx, caFile, addrs)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	ctx, end := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // root has none
		chromedp.Flag("ignore-certificate-errors-spki-list", pins),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.WindowSize(900, 1000),
		chromedp.WSURLReadTimeout(30*time.Second),
	)...)
	tb.Cleanup(end)
	ctx, closeWindow := chromedp.NewContext(ctx)
	tb.Cleanup(closeWindow)
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatalf("start %s: %v", path, err)
	}
	return &Browser{ctx}
}

// spki are the hashes of the servers' public keys, as Chromium's flag wants
// them. The authority's own would not do: servers don't send it.
func spki(ctx context.Context, caFile string, addrs []string) (string, error) {
	b, err := os.ReadFile(caFile)
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return "", fmt.Errorf("%s holds no certificate", caFile)
	}
	var pins []string
	for _, addr := range addrs {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
		pins = append(pins, base64.StdEncoding.EncodeToString(sum[:]))
		if err := conn.Close(); err != nil {
			return "", err
		}
	}
	return strings.Join(pins, ","), nil
}

// patience is how long one step may take.
const patience = 20 * time.Second

// Page is what a person sees after a step.
type Page struct {
	Status int64
	URL    string
	Title  string
	Text   string // of the main part
}

func (b *Browser) step(action chromedp.Action[chromedp.Void]) (p Page, err error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	resp, err := chromedp.RunResponse(ctx, action)
	if err != nil {
		return p, err
	}
	p.Status, p.URL = resp.Status, resp.URL
	if p.Title, err = chromedp.Run(ctx, chromedp.Title()); err != nil {
		return p, err
	}
	p.Text, err = chromedp.Run(ctx, chromedp.Text(chromedp.CSS("main")))
	return p, err
}

// Open goes to an address.
func (b *Browser) Open(url string) (Page, error) { return b.step(chromedp.Navigate(url)) }

// Fill types into a field, found by CSS.
func (b *Browser) Fill(field, text string) error {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(field), text))
}

// Submit presses a button that leads to another page.
func (b *Browser) Submit(button string) (Page, error) {
	return b.step(chromedp.Click(chromedp.CSS(button)))
}

// Screenshot writes what the window shows to a PNG file.
func (b *Browser) Screenshot(file string) error {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o600)
}
