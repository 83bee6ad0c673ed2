package sallyport

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

// Binaries is a directory with sallyport, tctl and tsh.
type Binaries string

// Path of one of the three.
func (b Binaries) Path(name string) string { return filepath.Join(string(b), name) }

// Build compiles the product as `make build` does, so that what is tested is
// what is shipped. Flags go to `go build` ("-race").
//
// The directory of a build is named by what is in it: another build never
// changes binaries that a running test has started from.
func Build(ctx context.Context, flags ...string) (Binaries, error) {
	root, err := testbed.Root()
	if err != nil {
		return "", err
	}
	place := sha256.Sum256([]byte(root + "\x00" + strings.Join(flags, "\x00")))
	dir := filepath.Join(testbed.Home(), "product", fmt.Sprintf("%x", place[:6]))
	unlock, err := testbed.Lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()

	// Always the same place to build in: what is there already is not linked again.
	stage := filepath.Join(dir, stageDir)
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return "", err
	}
	env := append(os.Environ(), "GOWORK=off")
	if !slices.Contains(flags, "-race") { // which needs cgo
		env = append(env, "CGO_ENABLED=0")
	}
	args := append([]string{"go", "build", "-trimpath"}, flags...)
	args = append(args, "-o", stage+"/", "./cmd/sallyport", "./cmd/tctl", "./cmd/tsh")
	r := testbed.Run(ctx, testbed.Command{Args: args, Dir: root, Env: env})
	if r.Err != nil {
		return "", r.Err
	}
	return keep(dir, stage)
}

// stageDir is where a checkout's newest binaries are; tests never run them there.
const stageDir = "stage"

// keep copies the stage to a directory of its own, unless it is there already.
func keep(dir, stage string) (Binaries, error) {
	sum := sha256.New()
	content := map[string][]byte{}
	for _, name := range []string{"sallyport", "tctl", "tsh"} {
		b, err := os.ReadFile(filepath.Join(stage, name))
		if err != nil {
			return "", err
		}
		content[name] = b
		fmt.Fprintf(sum, "%d\n%s", len(b), b)
	}
	final := filepath.Join(dir, fmt.Sprintf("%x", sum.Sum(nil)[:6]))
	if _, err := os.Stat(final); err == nil {
		return Binaries(final), prune(dir, final)
	}
	tmp, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for name, b := range content {
		if err := os.WriteFile(filepath.Join(tmp, name), b, 0o700); err != nil {
			return "", err
		}
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", err
	}
	return Binaries(final), prune(dir, final)
}

// keepBuilds is how many old builds stay: enough that none is in use.
const keepBuilds = 8

func prune(dir, newest string) error {
	if err := os.Chtimes(newest, time.Now(), time.Now()); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == stageDir })
	for len(entries) > keepBuilds {
		oldest := 0
		for i := range entries {
			if modTime(entries[i]).Before(modTime(entries[oldest])) {
				oldest = i
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, entries[oldest].Name())); err != nil {
			return err
		}
		entries = append(entries[:oldest], entries[oldest+1:]...)
	}
	return nil
}

func modTime(e fs.DirEntry) time.Time {
	info, err := e.Info()
	if err != nil {
		return time.Time{} // it went away meanwhile
	}
	return info.ModTime()
}
