package browser

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// problems are what a developer would find in the console. Events come on
// chromedp's goroutine.
type problems struct {
	mu        sync.Mutex
	found     []problem
	documents map[string]bool // pages themselves: an error page is no problem of its page
}

type problem struct {
	url  string // of what the network did not give; else ""
	text string
}

func newProblems() *problems { return &problems{documents: map[string]bool{}} }

func (b *Browser) listen() error {
	if err := chromedp.Listen(b.ctx, b.problems.hear); err != nil {
		return err
	}
	return b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, audits.Enable, cdp.Empty{})
		return err
	}))
}

func (p *problems) hear(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add := func(url, format string, args ...any) {
		p.found = append(p.found, problem{url, fmt.Sprintf(format, args...)})
	}
	switch ev := ev.(type) {
	case *network.EventResponseReceived:
		if ev.Type == network.ResourceTypeDocument {
			p.documents[ev.Response.URL] = true
		}
	case *log.EventEntryAdded:
		if ev.Entry.Level != log.EntryLevelError {
			return
		}
		url := ""
		if ev.Entry.Source == log.EntrySourceNetwork {
			url = ev.Entry.URL
		}
		add(url, "%s: %s (%s)", ev.Entry.Source, ev.Entry.Text, ev.Entry.URL)
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.ConsoleAPICalledTypeError || ev.Type == runtime.ConsoleAPICalledTypeWarning || ev.Type == runtime.ConsoleAPICalledTypeAssert {
			var said []string
			for _, arg := range ev.Args {
				said = append(said, strings.TrimSpace(string(arg.Value)+" "+arg.Description))
			}
			add("", "console.%s: %s", ev.Type, strings.Join(said, " "))
		}
	case *runtime.EventExceptionThrown:
		add("", "exception: %v", &chromedp.ExceptionError{ExceptionDetails: ev.ExceptionDetails})
	case *audits.EventIssueAdded:
		if d := ev.Issue.Details.ContentSecurityPolicyIssueDetails; d != nil {
			add("", "content security policy: %s refused %s (%s)", d.ViolatedDirective, d.BlockedURL, d.ContentSecurityPolicyViolationType)
		}
	}
}

// Problems are the errors, exceptions and breaches of the content security
// policy since it was last called. That a page was answered with 4xx or 5xx is
// none.
func (b *Browser) Problems() []string {
	p := b.problems
	p.mu.Lock()
	defer p.mu.Unlock()
	var texts []string
	for _, found := range p.found {
		if found.url == "" || !p.documents[found.url] {
			texts = append(texts, found.text)
		}
	}
	p.found = nil
	return texts
}
