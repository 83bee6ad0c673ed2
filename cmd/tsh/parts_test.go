package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
	"github.com/sallyport-dev/sallyport/internal/client/profile"
)

// TestLogoutOfManyIsBoundedAndTold: servers that never answer hold up nobody
// else, and all of them together cost one wait.
func TestLogoutOfManyIsBoundedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var profiles []*profile.Profile
		add := func(proxy string, life time.Duration) {
			profiles = append(profiles, &profile.Profile{Proxy: proxy, User: "alice", Cert: "c", NotAfter: time.Now().Add(life)})
		}
		for i := range 3 * atOnce {
			add("dead"+string(rune('a'+i))+":443", time.Hour)
		}
		add("quick:443", time.Hour)
		add("over:443", -time.Hour)
		var told [][]string
		begin := time.Now()
		failed := endAll(t.Context(), profiles, func(ctx context.Context, p *profile.Profile) error {
			switch {
			case p.Proxy == "over:443":
				t.Error("a session that has expired was ended")
			case strings.HasPrefix(p.Proxy, "dead"):
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, func(proxies []string) { told = append(told, proxies) })
		if took := time.Since(begin); took != logoutPatience {
			t.Errorf("took %s", took)
		}
		for i, err := range failed {
			dead := strings.HasPrefix(profiles[i].Proxy, "dead")
			if dead != errors.Is(err, context.DeadlineExceeded) || dead && !strings.Contains(err.Error(), "alice at "+profiles[i].Proxy) {
				t.Errorf("%s: %v", profiles[i].Proxy, err)
			}
		}
		if len(told) != 1 || len(told[0]) < 3*atOnce {
			t.Errorf("told %v", told)
		}
	})
}

func TestQuickLogoutSaysNothingOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &profile.Profile{Proxy: "a:443", Cert: "c", NotAfter: time.Now().Add(time.Hour)}
		failed := endAll(t.Context(), []*profile.Profile{p}, func(context.Context, *profile.Profile) error { return nil },
			func([]string) { t.Error("told of waiting") })
		if failed[0] != nil {
			t.Error(failed[0])
		}
		<-time.After(2 * quiet) // of the bubble's clock
	})
}

func TestLongWaitsAreMentionedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Int32
		note := func() { told.Add(1) }
		over := afterQuiet(note)
		<-time.After(quiet / 2)
		over()
		<-time.After(2 * quiet)
		if told.Load() != 0 {
			t.Error("told of a short wait")
		}
		over = afterQuiet(note)
		<-time.After(3 * quiet)
		over()
		if told.Load() != 1 {
			t.Errorf("told %d times", told.Load())
		}
	})
}

func TestParseVersion(t *testing.T) {
	for in, want := range map[string][]int{
		"1.2.3": {1, 2, 3}, "v0.1.0-dev": {0, 1, 0}, "10.20.30+b.1": {10, 20, 30}, "1.2.3-rc.1+x-y": {1, 2, 3},
		"": nil, "1.2": nil, "1.2.3.4": nil, "1.-2.3": nil, "a.b.c": nil, "1.2.99999999999999": nil, "dev": nil,
	} {
		if got, ok := parseVersion(in); ok != (want != nil) || !cmp.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, ok)
		}
	}
}

func TestOpener(t *testing.T) {
	for goos, want := range map[string]string{"linux": "xdg-open", "freebsd": "xdg-open", "darwin": "open", "windows": "rundll32"} {
		if name, _ := opener(goos); name != want {
			t.Errorf("%s: %s", goos, name)
		}
	}
}

// TestBrowserThatDoesNotOpenIsHeardOf: whether there is no opener, or one that
// finds no browser.
func TestBrowserThatDoesNotOpenIsHeardOf(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not on Linux: the opener here is a shell script")
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if err := <-startBrowser("linux", "https://example.com"); !errors.Is(err, exec.ErrNotFound) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if err := <-startBrowser("linux", "https://example.com"); err == nil || err.Error() != "exit status 3" {
		t.Error(err)
	}
}

// TestCompletionKnowsEveryFlag: of each command, with its values.
func TestCompletionKnowsEveryFlag(t *testing.T) {
	t.Setenv("SALLYPORT_HOME", t.TempDir()) // without logins
	complete := func(words ...string) []string {
		var out bytes.Buffer
		a := app()
		a.Stdout, a.Stderr = &out, io.Discard
		if status := a.Main(t.Context(), append([]string{"tsh", "__complete"}, words...)); status != 0 {
			t.Errorf("%q: exit status %d", words, status)
		}
		return strings.Split(out.String(), "\n")
	}
	var walk func(path []string, commands []cliapp.Command)
	walk = func(path []string, commands []cliapp.Command) {
		for _, c := range commands {
			if c.Hidden {
				continue
			}
			words := append(slices.Clone(path), c.Name)
			if !slices.Contains(complete(append(slices.Clone(path), "")...), c.Name) {
				t.Errorf("%q is not offered", words)
			}
			offered := complete(append(slices.Clone(words), "--")...)
			for _, f := range append(c.Flags, app().Flags...) {
				if !f.Hidden && !slices.Contains(offered, "--"+f.Name) {
					t.Errorf("%q: --%s is not offered", words, f.Name)
				}
				if values := complete(append(slices.Clone(words), "--"+f.Name+"=")...); !f.Hidden && len(values) != len(f.Values)+1 {
					t.Errorf("%q: --%s offers %q, want %q", words, f.Name, values, f.Values)
				}
			}
			walk(words, c.Commands)
		}
	}
	walk(nil, app().Commands)
}

func TestRememberFile(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for i := range 2 * maxFiles {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		files = rememberFile(rememberFile(files, path), path)
	}
	if len(files) != maxFiles || files[maxFiles-1] != filepath.Join(dir, fmt.Sprint(2*maxFiles-1)) {
		t.Errorf("%d files, the last is %s", len(files), files[len(files)-1])
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if got := rememberFile(files, files[1]); len(got) != maxFiles-1 || got[len(got)-1] != files[1] {
		t.Errorf("%d files", len(got))
	}
}

func TestRemaining(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for left, want := range map[time.Duration]string{
		-time.Second: "EXPIRED", 50 * time.Second: "valid for 50s", 12*time.Hour - 10*time.Second: "valid for 12h0m0s",
	} {
		p := &profile.Profile{Cert: "c", Created: now.Add(left - time.Minute), NotAfter: now.Add(left)}
		if got := remaining(p, now); got != want {
			t.Errorf("%s: %s", left, got)
		}
	}
}

// TestSettingsAreForLoginsOnly: no other command reads the file, right or broken.
func TestSettingsAreForLoginsOnly(t *testing.T) {
	var with []string
	var walk func(path string, commands []cliapp.Command)
	walk = func(path string, commands []cliapp.Command) {
		for _, c := range commands {
			if c.Settings != nil {
				with = append(with, path+c.Name)
			}
			walk(path+c.Name+" ", c.Commands)
		}
	}
	walk("", app().Commands)
	if diff := cmp.Diff([]string{"login", "config"}, with); diff != "" {
		t.Error(diff)
	}
}

func TestNamesOfContexts(t *testing.T) {
	for _, tc := range []struct{ template, want, wrong string }{
		{"", "", "put {{.KubeName}} into it"},
		{defaultContextName, "tele-cookie", ""},
		{"{{.KubeName}}", "cookie", ""},
		{"{{ .KubeName }}@{{ .ClusterName }}", "cookie@tele", ""},
		{"prod", "", "put {{.KubeName}} into it"},
		{"{{.ClusterName}}", "", "put {{.KubeName}} into it"},
		{"{{.KubeName}}{{.User}}", "", "holds more than text"},
		{"{{.KubeName}}{{", "", "holds more than text"},
		{"{{.KubeName}}}}", "", "holds more than text"},
		{"{{.KubeName}}\x1b[2J", "", "printable"},
		{"{{.KubeName}}\n", "", "printable"},
		{"{{.KubeName}}" + strings.Repeat("x", 300), "", "at most 256 bytes"},
	} {
		err := checkContextName(tc.template)
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) || !api.IsCode(err, api.CodeInvalid) {
				t.Errorf("%q: %v, want %s", tc.template, err, tc.wrong)
			}
			continue
		}
		if got := expandName(tc.template, "tele", "cookie"); err != nil || got != tc.want {
			t.Errorf("%q: %q, %v", tc.template, got, err)
		}
	}
}

// TestYAMLSaysWhatJSONSays: the same words, in the same order.
func TestYAMLSaysWhatJSONSays(t *testing.T) {
	v := struct {
		Text  []string          `json:"text"`
		Map   map[string]string `json:"map"`
		None  []string          `json:"none"`
		Null  *int              `json:"null"`
		Count int               `json:"count"`
		On    bool              `json:"on"`
	}{[]string{"a b", "off", "1e3", "<&>", "", "é\u2028", "a\nb", "2036-01-02T03:04:05Z", "- x"}, map[string]string{"yes": "no"}, []string{}, nil, 3, true}
	var out bytes.Buffer
	if err := showYAML(&cliapp.Call{Stdout: &out}, v); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "text:\n") || strings.Contains(out.String(), "{\"") {
		t.Errorf("not as people write it:\n%s", out.String())
	}
	var got any
	if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var again any
	want, err := json.Marshal(v)
	if err != nil || json.Unmarshal(want, &got) != nil || json.Unmarshal(b, &again) != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("(-JSON +YAML)\n%s\n%s", diff, out.String())
	}
}
