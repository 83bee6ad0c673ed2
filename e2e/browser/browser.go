package browser

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

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

// Chromium is a running browser, of which tests share one: it takes most of a
// second to start, a window of it nothing.
type Chromium struct {
	ctx   context.Context //nolint:containedctx // chromedp keeps the browser in one
	close context.CancelFunc
}

// Server is one that a browser trusts.
type Server struct {
	Addr string // HOST:PORT
	Name string // of its certificate, and, if Addr has another one, what resolves to Addr's; "": Addr's
}

// Launch starts a browser that ends with ctx or at Close. It trusts what the
// servers at addrs show, once that is verified to be signed by the authority in
// caFile (PEM).
func Launch(ctx context.Context, caFile string, addrs ...string) (*Chromium, error) {
	var servers []Server
	for _, addr := range addrs {
		servers = append(servers, Server{Addr: addr})
	}
	return LaunchFor(ctx, caFile, servers...)
}

// LaunchFor is Launch for servers whose names this machine's DNS doesn't know.
func LaunchFor(ctx context.Context, caFile string, servers ...Server) (*Chromium, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	pins, err := spki(ctx, caFile, servers)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, s := range servers {
		if host, _, err := net.SplitHostPort(s.Addr); err == nil && s.Name != "" && s.Name != host {
			names = append(names, "MAP "+s.Name+" "+host)
		}
	}
	ctx, end := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // root has none
		chromedp.Flag("ignore-certificate-errors-spki-list", pins),
		chromedp.Flag("host-resolver-rules", strings.Join(names, ",")),
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.WindowSize(900, 1000),
		chromedp.WSURLReadTimeout(30*time.Second),
	)...)
	ctx, closeAll := chromedp.NewContext(ctx)
	if err := chromedp.Do(ctx); err != nil {
		closeAll()
		end()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return &Chromium{ctx, func() { closeAll(); end() }}, nil
}

// Close ends the browser.
func (c *Chromium) Close() { c.close() }

// Browser is a window with a profile of its own: nothing is kept from others.
type Browser struct {
	ctx      context.Context //nolint:containedctx // chromedp keeps the window in one
	problems *problems
}

// Window opens a window that closes with the test.
func (c *Chromium) Window(tb testbed.TB) *Browser {
	tb.Helper()
	ctx, closeWindow := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	tb.Cleanup(closeWindow)
	b := &Browser{ctx: ctx, problems: newProblems()}
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatalf("open a window: %v", err)
	}
	if err := b.listen(); err != nil {
		tb.Fatalf("open a window: %v", err)
	}
	return b
}

// Start opens a browser of its own that ends with the test. See Launch.
func Start(ctx context.Context, tb testbed.TB, caFile string, addrs ...string) *Browser {
	tb.Helper()
	c, err := Launch(ctx, caFile, addrs...)
	if err != nil {
		tb.Fatalf("%v", err)
	}
	tb.Cleanup(c.Close)
	return c.Window(tb)
}

// spki are the hashes of the servers' public keys, as Chromium's flag wants
// them. The authority's own would not do: servers don't send it.
func spki(ctx context.Context, caFile string, servers []Server) (string, error) {
	b, err := os.ReadFile(caFile)
	if err != nil {
		return "", err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return "", fmt.Errorf("%s holds no certificate", caFile)
	}
	var pins []string
	for _, s := range servers {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: s.Name}}).DialContext(ctx, "tcp", s.Addr)
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

// patience is how long one step may take on a machine that is busy.
const patience = time.Minute

// Page is what a person sees after a step.
type Page struct {
	Status int64
	URL    string
	Title  string
	Text   string // of the main part
}

// mainPart is what a page is about. Not all pages of others mark it.
const mainPart = "main, body:not(:has(main))"

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
	p.Text, err = chromedp.Run(ctx, chromedp.Text(chromedp.CSS(mainPart)))
	return p, err
}

// do runs what leads to no other page.
func (b *Browser) do(steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// get runs what gives a value.
func get[T any](b *Browser, a chromedp.Action[T]) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, a)
}

// Open goes to an address.
func (b *Browser) Open(url string) (Page, error) { return b.step(chromedp.Navigate(url)) }

// Fill types into a field, found by CSS, in place of what it holds.
func (b *Browser) Fill(field, text string) error {
	there := chromedp.WaitVisible(chromedp.CSS(field))
	empty := chromedp.Evaluate[chromedp.Void](fmt.Sprintf("document.querySelector(%q).value = ''", field)) // chromedp's SetValue can't
	return b.do(there, empty, chromedp.SendKeys(chromedp.CSS(field), text))
}

// Submit presses a button that leads to another page.
func (b *Browser) Submit(button string) (Page, error) {
	return b.step(chromedp.Click(chromedp.CSS(button)))
}

// Press presses what leads to no other page.
func (b *Browser) Press(button string) error { return b.do(chromedp.Click(chromedp.CSS(button))) }

// Keys types at whatever has the focus: kb.Tab, kb.Enter and text.
func (b *Browser) Keys(keys string) error { return b.do(chromedp.KeyEvent(keys)) }

// Enter presses the Enter key, which leads to another page.
func (b *Browser) Enter() (Page, error) { return b.step(chromedp.KeyEvent(kb.Enter)) }

// Here is the page in the window.
func (b *Browser) Here() (p Page, err error) {
	if p.URL, err = get(b, chromedp.Location()); err != nil {
		return p, err
	}
	if p.Title, err = get(b, chromedp.Title()); err != nil {
		return p, err
	}
	p.Text, err = b.Text(mainPart)
	return p, err
}

// Loaded reports whether all of the page is there. Before, what is pressed may still
// move away from under the mouse.
func (b *Browser) Loaded() (bool, error) {
	return get(b, chromedp.Evaluate[bool]("document.readyState === 'complete'"))
}

// Value is what a field holds.
func (b *Browser) Value(field string) (string, error) {
	return get(b, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q).value", field)))
}

// Cookies are those that a page at url would be sent.
func (b *Browser) Cookies(url string) ([]*network.Cookie, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	r, err := chromedp.Call(ctx, network.GetCookies, network.GetCookiesParams{URLs: []string{url}})
	return r.Cookies, err
}

// Text is what an element shows, found by CSS.
func (b *Browser) Text(element string) (string, error) {
	return get(b, chromedp.Text(chromedp.CSS(element)))
}

// Has reports whether the page has such an element, seen or not.
func (b *Browser) Has(element string) (bool, error) {
	return get(b, chromedp.Evaluate[bool](fmt.Sprintf("document.querySelector(%q) !== null", element)))
}

// HTML is the page as it stands.
func (b *Browser) HTML() (string, error) {
	return get(b, chromedp.Evaluate[string]("document.documentElement.outerHTML"))
}

// Screenshot writes all of the page to a PNG file.
func (b *Browser) Screenshot(file string) error {
	png, err := get(b, chromedp.FullScreenshot(100))
	if err != nil {
		return err
	}
	return os.WriteFile(file, png, 0o600)
}
