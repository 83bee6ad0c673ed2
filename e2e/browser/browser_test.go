package browser

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

const policy = "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'"

// pages have what the looks at a page must find.
var pages = map[string]string{
	"/good": `<!doctype html><html lang=en><title>Good</title><link rel=stylesheet href=/style.css><main><h1>Good</h1>
		<form method=post action=/good><label>Name <input name=name></label><label><input type=radio name=r>A</label><label><input type=radio name=r>B</label>
		<input type=hidden name=t><button>Go</button> <a href=/good>again</a></form></main></html>`,
	"/wide":     `<!doctype html><html lang=en><title>Wide</title><link rel=stylesheet href=/style.css><main class=wide><h1>Wide</h1></main></html>`,
	"/pale":     `<!doctype html><html lang=en><title>Pale</title><link rel=stylesheet href=/style.css><main><h1>Pale</h1><p class=pale>by night</p></main></html>`,
	"/unlabel":  `<!doctype html><html lang=en><title>No label</title><main><h1>No label</h1><input name=x></main></html>`,
	"/ringless": `<!doctype html><html lang=en><title>No ring</title><link rel=stylesheet href=/style.css><main><h1>No ring</h1><a class=bare href=/good>x</a></main></html>`,
	"/inline":   `<!doctype html><html lang=en><title>Inline</title><main><h1 style="color:red">Inline</h1><script>document.title='ran'</script></main></html>`,
	"/throws":   `<!doctype html><html lang=en><title>Throws</title><main><h1>Throws</h1></main><script src=/throws.js></script></html>`,
	"/missing":  `<!doctype html><html lang=en><title>Missing</title><link rel=stylesheet href=/none.css><main><h1>Missing</h1></main></html>`,
	"/script":   `<!doctype html><html lang=en><title>Script</title><main><h1>Script</h1><p id=p>off</p></main><script src=/on.js></script></html>`,
}

func site() http.Handler {
	files := map[string][2]string{
		"/style.css": {"text/css", `.wide { width: 800px } .bare:focus { outline: none }
			@media (prefers-color-scheme: dark) { body { background: #111; color: #eee } a { color: #8cf } .pale { color: #333 } }`},
		"/throws.js": {"text/javascript", `console.error('first'); throw new Error('second')`},
		"/on.js":     {"text/javascript", `document.getElementById('p').textContent = 'on'`},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		if f, ok := files[r.URL.Path]; ok {
			w.Header().Set("Content-Type", f[0])
			fmt.Fprint(w, f[1])
			return
		}
		w.Header().Set("Content-Type", "text/html")
		page, ok := pages[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			page = `<!doctype html><html lang=en><title>None</title><main><h1>Not here</h1></main></html>`
		}
		fmt.Fprint(w, page)
	})
}

// window opens the site in a browser.
func window(t *testing.T) (*Browser, string) {
	t.Helper()
	srv := httptest.NewTLSServer(site())
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return Start(t.Context(), t, ca, srv.Listener.Addr().String()), srv.URL
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestLooksFindWhatIsWrong(t *testing.T) {
	if err := testbed.Build(context.Background(), os.Stderr, testbed.Axe); err != nil {
		t.Fatal(err)
	}
	b, url := window(t)
	for _, l := range Looks() {
		if err := b.See(l); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]struct {
			rule  string // axe's
			wider bool
		}{
			"/good":    {},
			"/wide":    {wider: l.Width < 800},
			"/pale":    {rule: map[string]string{"dark": "color-contrast"}[l.Scheme]},
			"/unlabel": {rule: "label"},
		} {
			must[Page](t)(b.Open(url + path))
			var serious []string
			for _, v := range must[[]Violation](t)(b.Axe()) {
				if v.Serious() {
					serious = append(serious, v.ID)
				}
			}
			if got := strings.Join(serious, " "); got != want.rule {
				t.Errorf("%s seen as %s: axe finds %q, want %q", path, l, got, want.rule)
			}
			wider, who, err := b.Overflow()
			if err != nil || (wider > 0) != want.wider || want.wider && !slices.Contains(who, "main.wide") {
				t.Errorf("%s seen as %s is %d pixels too wide by %v, %v", path, l, wider, who, err)
			}
		}
	}
	if got := b.Problems(); len(got) > 0 {
		t.Errorf("looking leaves problems: %q", got)
	}
}

func TestProblemsAreHeard(t *testing.T) {
	b, url := window(t)
	for path, want := range map[string][]string{
		"/good":    nil,
		"/nowhere": nil, // its status is not its fault
		"/inline":  {"style-src", "script-src"},
		"/throws":  {"first", "second"},
		"/missing": {"none.css"},
	} {
		page := must[Page](t)(b.Open(url + path))
		if path == "/inline" && page.Title != "Inline" {
			t.Errorf("an inline script ran")
		}
		var got []string
		testbed.Wait(t, patience, "problems of "+path, func() error {
			got = append(got, b.Problems()...)
			if len(got) < len(want) {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
		all := strings.Join(got, "\n")
		for _, w := range want {
			if !strings.Contains(all, w) {
				t.Errorf("%s: %q is not in %q", path, w, all)
			}
		}
		if want == nil && got != nil {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestTabWalkGoesEverywhere(t *testing.T) {
	b, url := window(t)
	must[Page](t)(b.Open(url + "/good"))
	stops, missed, err := b.TabWalk()
	if err != nil || len(missed) > 0 || len(stops) != 4 {
		t.Errorf("stops %v, missed %v, %v", stops, missed, err)
	}
	for _, s := range stops {
		if !s.Visible {
			t.Errorf("the focus is not seen on %s", s.Name)
		}
	}
	must[Page](t)(b.Open(url + "/ringless"))
	stops, _, err = b.TabWalk()
	if err != nil || len(stops) != 1 || stops[0].Visible {
		t.Errorf("a link without a ring: %v, %v", stops, err)
	}
}

func TestWithoutScript(t *testing.T) {
	b, url := window(t)
	must[Page](t)(b.Open(url + "/script"))
	if got := must[string](t)(b.Text("#p")); got != "on" {
		t.Errorf("with JavaScript: %q", got)
	}
	if err := b.WithoutScript(); err != nil {
		t.Fatal(err)
	}
	page := must[Page](t)(b.Open(url + "/script"))
	if !strings.Contains(page.Text, "off") {
		t.Errorf("without JavaScript: %+v", page)
	}
	must[Page](t)(b.Open(url + "/good"))
	if err := b.Fill("input[name=name]", "text"); err != nil {
		t.Error(err)
	}
	if page := must[Page](t)(b.Submit("button")); page.Title != "Good" {
		t.Errorf("%+v", page)
	}
}
