package release

import (
	"archive/tar"
	"io"
	"path"
	"strings"
	"testing"
)

func TestLinksToWhatIsNotThereAreWords(t *testing.T) {
	for text, want := range map[string]string{
		"in [agents](../../docs/agents.md#by-chart).":      "in agents (docs/agents.md).",
		"in [docs/agents.md](../../docs/agents.md), here":  "in docs/agents.md, here",
		"[its filter](filter.jq) and [values](#values)":    "[its filter](filter.jq) and [values](#values)",
		"[a](x.md) [b](https://example.com/x.md#y) `[c]`":  "a (charts/one/x.md) [b](https://example.com/x.md#y) `[c]`",
		"| [one](x.md), [two](filter.jq#two) |":            "| one (charts/one/x.md), [two](filter.jq#two) |",
		"![picture](../../docs/a.svg)\n\nand *no* link at": "picture (docs/a.svg)\n\nand *no* link at",
	} {
		got := string(unlinked("charts/one/README.md", []byte(text), func(file string) bool { return file == "charts/one/filter.jq" }))
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Who has unpacked an archive has nothing else of the repository.
func linksOf(t *testing.T, archive string) {
	t.Helper()
	files, texts := map[string]bool{}, map[string]string{}
	eachInTar(t, archive, func(h *tar.Header, in io.Reader) {
		name := path.Clean(h.Name)
		files[name] = true
		if path.Ext(name) == ".md" {
			b, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			texts[name] = string(b)
		}
	})
	if len(texts) == 0 {
		t.Errorf("%s has no README", archive)
	}
	for name, text := range texts {
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			file, _, _ := strings.Cut(m[2], "#")
			if file != "" && !strings.Contains(m[2], "://") && !files[path.Join(path.Dir(name), file)] {
				t.Errorf("%s, %s: %s leads out of the archive", path.Base(archive), name, m[0])
			}
		}
	}
}
