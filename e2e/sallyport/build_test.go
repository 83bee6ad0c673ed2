package sallyport

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBuildsAreKeptByContent(t *testing.T) {
	dir := t.TempDir()
	stage := filepath.Join(dir, stageDir)
	if err := os.Mkdir(stage, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(content string) {
		for _, name := range []string{"sallyport", "tctl", "tsh"} {
			if err := os.WriteFile(filepath.Join(stage, name), []byte(content), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	build := func(content string) Binaries {
		write(content)
		b, err := keep(dir, stage)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := build("1")
	if two := build("2"); two == one {
		t.Error("another build has the same place")
	}
	if again := build("1"); again != one {
		t.Errorf("%s and %s for the same build", one, again)
	}
	if b, err := os.ReadFile(one.Path("tsh")); err != nil || string(b) != "1" {
		t.Errorf("got %q, %v", b, err)
	}
	// The oldest go first, the stage never.
	if err := os.Chtimes(string(one), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for i := range keepBuilds {
		build(string(rune('a' + i)))
	}
	if _, err := os.Stat(string(one)); err == nil {
		t.Error("the oldest build is still there")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != keepBuilds+1 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}
