package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Encode writes documents (JSON, as the server lists them) as YAML, separated
// by ---, fields in the order in which the server gave them. What it writes reads
// back as the same JSON, with parsers of YAML 1.1 too: text that one of them takes
// for a number or a boolean (off, 1e3) is quoted.
func Encode(items []json.RawMessage) ([]byte, error) {
	var out bytes.Buffer
	for i, item := range items {
		if i > 0 {
			out.WriteString("---\n")
		}
		e := encoder{dec: json.NewDecoder(bytes.NewReader(item)), out: &out}
		e.dec.UseNumber()
		if err := e.value(0, atStart); err != nil {
			return nil, fmt.Errorf("write document %d as YAML: %w", i+1, err)
		}
	}
	return out.Bytes(), nil
}

// position is what stands before a value on its line.
type position int

const (
	atStart position = iota // nothing
	afterKey
	afterDash
)

type encoder struct {
	dec *json.Decoder
	out *bytes.Buffer
}

// value writes one value, its line end included.
func (e *encoder) value(indent int, pos position) error {
	token, err := e.dec.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if indent > 2*maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch v := token.(type) {
	case json.Delim:
		if !e.dec.More() {
			e.line(pos, map[json.Delim]string{'{': "{}", '[': "[]"}[v])
		} else if v == '{' {
			err = e.object(indent, pos)
		} else {
			err = e.list(indent, pos)
		}
		if err != nil {
			return err
		}
		_, err = e.dec.Token() // the end
		return err
	case string:
		if text, ok := block(v, indent); ok && pos == afterKey {
			e.line(pos, text)
			return nil
		}
		e.line(pos, quote(v))
	case nil:
		e.line(pos, "null")
	default:
		e.line(pos, fmt.Sprint(v))
	}
	return nil
}

func (e *encoder) line(pos position, text string) {
	if pos == afterKey {
		e.out.WriteByte(' ')
	}
	e.out.WriteString(text + "\n")
}

func (e *encoder) object(indent int, pos position) error {
	if pos == afterKey {
		e.out.WriteByte('\n')
	}
	for first := true; e.dec.More(); first = false {
		key, err := e.dec.Token()
		if err != nil {
			return err
		}
		if !first || pos != afterDash {
			e.out.WriteString(strings.Repeat(" ", indent))
		}
		name, _ := key.(string)
		e.out.WriteString(quote(name) + ":")
		if err := e.value(indent+2, afterKey); err != nil {
			return err
		}
	}
	return nil
}

// list writes elements under the key's own column, as people write them.
func (e *encoder) list(indent int, pos position) error {
	if pos == afterKey {
		e.out.WriteByte('\n')
		indent -= 2
	}
	for first := true; e.dec.More(); first = false {
		if !first || pos != afterDash {
			e.out.WriteString(strings.Repeat(" ", indent))
		}
		e.out.WriteString("- ")
		if err := e.value(indent+2, afterDash); err != nil {
			return err
		}
	}
	return nil
}

// plain is text that no reader of YAML takes for anything else, reserved words
// aside: words of which the first begins with a letter, and none ends with a
// colon, or a duration.
var plain = regexp.MustCompile(`^([A-Za-z]([A-Za-z0-9_./@+:,-]*[A-Za-z0-9_./@+,-])?( ([A-Za-z0-9_./@+:,-]*[A-Za-z0-9_./@+,-]))*|([0-9]+h)?([0-9]+m)?[0-9]+s)$`)

// reserved are the booleans and nulls of YAML 1.1 and 1.2, in lower case.
var reserved = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

func quote(s string) string {
	if plain.MatchString(s) && !slices.Contains(reserved, strings.ToLower(s)) {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b) // strings of JSON are strings of YAML
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string
	return strings.ReplaceAll(strings.TrimSuffix(b.String(), "\n"), "\x7f", `\u007f`)
}

// block writes text of several lines as they are, where that is unambiguous.
func block(s string, indent int) (string, bool) {
	body, ends := strings.CutSuffix(s, "\n")
	if !strings.Contains(body, "\n") || strings.HasPrefix(s, " ") {
		return "", false
	}
	for l := range strings.SplitSeq(body, "\n") {
		if l == "" || strings.HasSuffix(l, " ") || strings.IndexFunc(l, func(r rune) bool { return r < 0x20 || r > 0x7e }) >= 0 {
			return "", false
		}
	}
	header := "|-"
	if ends {
		header = "|"
	}
	space := "\n" + strings.Repeat(" ", max(indent, 2))
	return header + space + strings.ReplaceAll(body, "\n", space), true
}
