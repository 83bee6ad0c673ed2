package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func formatFlag(def string) cliapp.Flag {
	return cliapp.Flag{Name: "format", Usage: "print the answer as `FORMAT`", Values: []string{"text", "json", "yaml"}, Default: def}
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
