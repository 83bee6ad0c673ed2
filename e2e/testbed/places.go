package testbed

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Module is the product's module; the directory of its go.mod is Root.
const Module = "github.com/sallyport-dev/sallyport"

// Home is where all that is built or run lives: $TESTBED_HOME, or
// sallyport-testbed in the user's cache directory (as in lib.sh).
func Home() string {
	if dir := os.Getenv("TESTBED_HOME"); dir != "" {
		return dir
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return filepath.Join(cache, "sallyport-testbed")
}

// Bin returns the path of a binary that Build leaves behind.
func Bin(name string) string { return filepath.Join(Home(), "bin", name) }

// AxeScript is the path of axe-core, which Build(Axe) leaves behind.
func AxeScript() string {
	return filepath.Join(Home(), "share", "axe", "node_modules", "axe-core", "axe.min.js")
}

// runDir is the directory of what the scripts' commands leave running.
func runDir() string {
	name := os.Getenv("TESTBED_NAME")
	if name == "" {
		name = "sp"
	}
	return filepath.Join(Home(), "run", name)
}

// Root finds the repository's top from the working directory upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(b), "\n"); err == nil && strings.TrimSpace(first) == "module "+Module {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository of " + Module)
		}
		dir = parent
	}
}
