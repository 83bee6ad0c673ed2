package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// each does fn for all items, also where it fails for one: the others are meant no
// less. It stops where all others would fail for the same reason.
func each[T any](ctx context.Context, items []T, fn func(T) error) error {
	var errs []error
	for i, item := range items {
		err := fn(item)
		if err == nil {
			continue
		}
		errs = append(errs, err)
		if code := api.CodeOf(err); ctx.Err() != nil || code == api.CodeUnauthenticated || code == api.CodeUnavailable {
			if left := len(items) - i - 1; left > 0 {
				errs = append(errs, api.Errorf(code, "%d more not tried", left))
			}
			break
		}
	}
	return errors.Join(errs...)
}

func formatFlag(def string) cliapp.Flag {
	return cliapp.Flag{Name: "format", Usage: "print the answer as `FORMAT`", Values: []string{"text", "json", "yaml"}, Default: def}
}

// scripted says that a program reads the answer: nothing is written beside it on
// either stream, because "kubectl exec -ti" makes one of both.
func scripted(c *cliapp.Call) bool {
	format := c.String("format")
	return format == "json" || format == "yaml"
}

// show prints v in the format asked for; text is what it looks like as text.
// Standard output carries nothing else.
func show(c *cliapp.Call, v any, text func()) error {
	switch c.String("format") {
	case "text":
		text()
		return nil
	case "json":
		return c.JSON(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	if b, err = yamldoc.Encode([]json.RawMessage{b}); err != nil {
		return err
	}
	return writeYAML(c, b)
}

func writeYAML(c *cliapp.Call, b []byte) error {
	s := string(b)
	if c.StdoutIsTerminal() {
		s = cliapp.Clean(s)
	}
	_, err := io.WriteString(c.Stdout, s)
	return err
}
