// Command clidoc writes what can be written from the programs' declarations: the
// reference docs/cli.md, the manual pages docs/man/*.1, and the list of settings in
// docs/configuration.md. It asks the programs themselves, so that nothing of this is
// linked into them: run "make docs".
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "clidoc:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// run writes the documents into docs of the present directory, the top of the repository.
func run(ctx context.Context) error {
	programs, err := declarations(ctx, ".")
	if err != nil {
		return err
	}
	files, err := documents(ctx, ".", programs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join("docs", "man"), 0o755); err != nil { //nolint:gosec // for everybody to read
		return err
	}
	for name, text := range files {
		err = errors.Join(err, os.WriteFile(name, text, 0o644)) //nolint:gosec // as above
	}
	return err
}

// declarations are what the programs say of themselves.
func declarations(ctx context.Context, top string) ([]cliapp.Declared, error) {
	var out []cliapp.Declared
	for _, name := range []string{"sallyport", "tctl", "tsh"} {
		b, err := output(ctx, top, name, "__declare")
		if err != nil {
			return nil, err
		}
		var d cliapp.Declared
		if err := json.Unmarshal(b, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, d)
	}
	return out, nil
}

// documents are the files by their path below top, as they should be.
func documents(ctx context.Context, top string, programs []cliapp.Declared) (map[string][]byte, error) {
	out := map[string][]byte{filepath.Join("docs", "cli.md"): reference(programs)}
	for _, d := range programs {
		out[filepath.Join("docs", "man", d.Name+".1")] = manual(d)
	}
	file, err := output(ctx, top, "sallyport", "configure")
	if err != nil {
		return nil, err
	}
	name := filepath.Join("docs", "configuration.md")
	old, err := os.ReadFile(filepath.Join(top, name)) //nolint:gosec // of this repository
	if err != nil {
		return nil, err
	}
	out[name], err = between(old, file)
	return out, err
}

// output runs a program of this repository. go run keeps what it builds.
func output(ctx context.Context, top, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "./cmd/" + name}, args...)...)
	cmd.Dir = top
	var errs bytes.Buffer
	cmd.Stderr = &errs
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, errs.String())
	}
	return b, nil
}

const begin, end = "<!-- written by make docs: -->\n", "<!-- until here -->\n"

// between puts a file, as a block of code, between the two marks of a document.
func between(doc, file []byte) ([]byte, error) {
	head, rest, ok := bytes.Cut(doc, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return nil, fmt.Errorf("docs/configuration.md has lost the line %s or %s", begin, end)
	}
	return bytes.Join([][]byte{head, []byte(begin + "\n```yaml\n"), file, []byte("```\n\n" + end), tail}, nil), nil
}
