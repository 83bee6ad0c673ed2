package browser

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Look is a way to see a page.
type Look struct {
	Width  int64  // CSS pixels
	Scheme string // prefers-color-scheme
}

// Looks are a phone and a laptop, by day and by night.
func Looks() []Look {
	return []Look{{390, "light"}, {390, "dark"}, {1440, "light"}, {1440, "dark"}}
}

func (l Look) String() string { return fmt.Sprintf("%d-%s", l.Width, l.Scheme) }

// See shows the window as l from now on, this page and others.
func (b *Browser) See(l Look) error {
	height := int64(900)
	if l.Width < 600 {
		height = 844
	}
	media := chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.Scheme}},
		})
		return err
	})
	// Colours that fade into each other are looked at when they have.
	finish := chromedp.Evaluate[chromedp.Void]("document.getAnimations().forEach((a) => a.finish())")
	return b.do(chromedp.EmulateViewport(l.Width, height), media, finish)
}

// WithoutScript turns JavaScript off for pages opened from now on.
func (b *Browser) WithoutScript() error {
	return b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	}))
}

// Stay keeps the window from going where a pattern matches (* stands for
// anything), until it may: for a page that goes on by itself at once. The request
// is answered with "no content", at which a browser stays where it is.
func (b *Browser) Stay(pattern string) (leave func() error, err error) {
	_, leave, err = b.Hold(pattern)
	return leave, err
}

// Held is a request that did not leave the browser.
type Held struct {
	Method, URL string
	Body        []byte
}

// heldAtMost is how many requests Hold gives; more are kept back all the same.
const heldAtMost = 16

// Hold is Stay, and gives what would have been sent.
func (b *Browser) Hold(pattern string) (held <-chan Held, leave func() error, err error) {
	requests := make(chan Held, heldAtMost)
	if err := chromedp.Listen(b.ctx, func(ev any) {
		paused, ok := ev.(*fetch.EventRequestPaused)
		if !ok {
			return
		}
		h := Held{Method: paused.Request.Method, URL: paused.Request.URL}
		for _, part := range paused.Request.PostDataEntries {
			h.Body = append(h.Body, part.Bytes...)
		}
		select {
		case requests <- h:
		default:
		}
		go func() { // a listener may not call
			_, _ = chromedp.Call(b.ctx, fetch.FulfillRequest, fetch.FulfillRequestParams{RequestID: paused.RequestID, ResponseCode: 204})
		}()
	}); err != nil {
		return nil, nil, err
	}
	_, err = chromedp.Call(b.ctx, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{URLPattern: pattern}}})
	return requests, func() error {
		_, err := chromedp.Call(b.ctx, fetch.Disable, cdp.Empty{})
		return err
	}, err
}

// Overflow is by how many pixels the page is wider than the window, and what
// sticks out.
func (b *Browser) Overflow() (int, []string, error) {
	type overflow struct {
		Pixels int      `json:"pixels"`
		Who    []string `json:"who"`
	}
	o, err := get(b, chromedp.Evaluate[overflow](overflowScript))
	return o.Pixels, o.Who, err
}

// Violation is an accessibility rule that a page breaks (axe-core's results).
type Violation struct {
	ID     string   `json:"id"`
	Impact string   `json:"impact"` // minor, moderate, serious, critical
	Help   string   `json:"help"`
	Nodes  []string `json:"nodes"` // the elements, and what is wrong with each
}

// Serious reports whether people are kept from something.
func (v Violation) Serious() bool { return v.Impact == "serious" || v.Impact == "critical" }

func (v Violation) String() string {
	return fmt.Sprintf("%s %s: %s\n    %s", v.Impact, v.ID, v.Help, strings.Join(v.Nodes, "\n    "))
}

var (
	//go:embed js/axe.js
	axeScript string
	//go:embed js/overflow.js
	overflowScript string
	//go:embed js/controls.js
	controlsScript string
	//go:embed js/focused.js
	focusedScript string
)

// Axe has axe-core look at the page. It comes by the debugger, which a content
// security policy does not bind: the page under test keeps its own.
func (b *Browser) Axe() ([]Violation, error) {
	source, err := os.ReadFile(testbed.AxeScript())
	if err != nil {
		return nil, fmt.Errorf("%w: testbed.Build(Axe) fetches it", err)
	}
	there, err := get(b, chromedp.Evaluate[bool]("typeof axe === 'object'"))
	if err != nil {
		return nil, err
	}
	if !there {
		if err := b.do(chromedp.Evaluate[chromedp.Void](string(source))); err != nil {
			return nil, fmt.Errorf("load axe-core: %w", err)
		}
	}
	return get(b, chromedp.Evaluate[[]Violation](axeScript, chromedp.EvalAwaitPromise))
}

// Stop is where the Tab key leads.
type Stop struct {
	Name    string `json:"name"`    // of the element, as a developer would write it
	Visible bool   `json:"visible"` // one sees that it has the focus
}

// TabWalk presses Tab until it has been everywhere. Missed are controls that
// are seen and that it never led to.
func (b *Browser) TabWalk() (stops []Stop, missed []string, err error) {
	missed, err = get(b, chromedp.Evaluate[[]string](controlsScript))
	if err != nil {
		return nil, nil, err
	}
	for range 2*len(missed) + 10 {
		if err := b.do(chromedp.KeyEvent(kb.Tab)); err != nil {
			return nil, nil, err
		}
		stop, err := get(b, chromedp.Evaluate[Stop](focusedScript))
		if err != nil {
			return nil, nil, err
		}
		if stop.Name == "" {
			continue // the window's own frame; from there on it goes round
		}
		if slices.ContainsFunc(stops, func(s Stop) bool { return s.Name == stop.Name }) {
			break
		}
		stops = append(stops, stop)
		missed = slices.DeleteFunc(missed, func(name string) bool { return name == stop.Name })
	}
	return stops, missed, nil
}
