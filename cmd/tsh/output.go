package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func formatFlag() cliapp.Flag {
	return cliapp.Flag{Name: "format", Usage: "print the answer as `FORMAT`", Values: []string{"text", "json", "yaml"}, Default: "text"}
}

// scripted says that a program reads the answer: nothing is written beside it on
// either stream, because "kubectl exec -ti" makes one of both.
func scripted(c *cliapp.Call) bool {
	format := c.String("format")
	return format == "json" || format == "yaml"
}

// show prints v in the format asked for; text prints it as text. Standard output
// carries nothing else.
func show(c *cliapp.Call, v any, text func()) error {
	switch c.String("format") {
	case "json":
		return c.JSON(v)
	case "yaml":
		return showYAML(c, v)
	}
	text()
	return nil
}

// showYAML writes what c.JSON would, as YAML: the names and the order are those of
// the JSON. (The encoder of tctl brings a parser along that is slow to start.)
func showYAML(c *cliapp.Call, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(b, &doc); err != nil { // JSON is YAML
		return fmt.Errorf("encode the answer: %w", err)
	}
	plain(&doc)
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	text := out.String()
	if c.StdoutIsTerminal() {
		text = cliapp.Clean(text)
	}
	_, err = io.WriteString(c.Stdout, text)
	return err
}

// plain takes the brackets and quotes of JSON away, where they aren't needed.
func plain(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, sub := range n.Content {
		plain(sub)
	}
}
