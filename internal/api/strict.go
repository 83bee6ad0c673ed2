package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// maxJSONDepth bounds nesting: no document of ours comes near it.
const maxJSONDepth = 32

// FieldError names the field of a document that is wrong: metadata.name,
// spec.allow.rules[0].verbs. Path is "" for the document as a whole.
type FieldError struct {
	Path   string
	Reason string
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Reason
	}
	return e.Path + ": " + e.Reason
}

// reasonUnknown is the FieldError's reason for a field that T does not have.
const reasonUnknown = "unknown field"

// DecodeStrict reads one JSON value from a stranger. Beyond encoding/json it
// refuses unknown fields, names that differ in case only, repeated fields, deep
// nesting and anything after the value; the error is CodeInvalid and has a
// *FieldError in its chain that names the field.
func DecodeStrict(b []byte, into any) error {
	if len(b) > MaxRequestBody {
		return Errorf(CodeTooLarge, "%d bytes, at most %d are allowed", len(b), MaxRequestBody)
	}
	if err := CheckFields(b, into); err != nil {
		return Errorf(CodeInvalid, "%w", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return Errorf(CodeInvalid, "%w", asFieldError(err))
	}
	return nil
}

func asFieldError(err error) *FieldError {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		want := "a value of another kind"
		if e.Type != nil {
			want = kindName(e.Type)
		}
		return &FieldError{Path: e.Field, Reason: fmt.Sprintf("want %s, not a %s", want, e.Value)}
	}
	return &FieldError{Reason: err.Error()}
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "a number"
	}
}

// CheckFields reports, as a *FieldError, the first field of the JSON value that
// the type of like does not have by exactly that name, or that is there twice.
// It serves readers of stored documents too: a role with a field that this
// version does not know denies (see internal/auth).
func CheckFields(b []byte, like any) error {
	c := fieldChecker{dec: json.NewDecoder(bytes.NewReader(b))}
	c.dec.UseNumber()
	if err := c.value(reflect.TypeOf(like), "", 0); err != nil {
		return err
	}
	if _, err := c.dec.Token(); !errors.Is(err, io.EOF) {
		return &FieldError{Reason: "something follows the document"}
	}
	return nil
}

type fieldChecker struct{ dec *json.Decoder }

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// value reads one value. t is nil where any fields may stand.
func (c *fieldChecker) value(t reflect.Type, path string, depth int) error {
	if depth > maxJSONDepth {
		return &FieldError{Path: path, Reason: fmt.Sprintf("nested deeper than %d levels", maxJSONDepth)}
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t != nil && (reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler)) {
		t = nil // it reads itself
	}
	token, err := c.dec.Token()
	if err != nil {
		return c.syntax(err)
	}
	switch token {
	case json.Delim('{'):
		return c.object(t, path, depth)
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			elem = t.Elem()
		}
		for i := 0; c.dec.More(); i++ {
			if err := c.value(elem, path+"["+strconv.Itoa(i)+"]", depth+1); err != nil {
				return err
			}
		}
		if _, err = c.dec.Token(); err != nil {
			return c.syntax(err)
		}
	}
	return nil
}

func (c *fieldChecker) object(t reflect.Type, path string, depth int) error {
	var fields map[string]reflect.Type
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		fields = jsonFields(t)
	} else if t != nil && t.Kind() == reflect.Map {
		elem = t.Elem()
	}
	seen := map[string]bool{}
	for c.dec.More() {
		token, err := c.dec.Token()
		if err != nil {
			return c.syntax(err)
		}
		name, _ := token.(string)
		at := name
		if path != "" {
			at = path + "." + name
		}
		if seen[name] {
			return &FieldError{Path: at, Reason: "given twice"}
		}
		seen[name] = true
		member := elem
		if fields != nil {
			var known bool
			if member, known = fields[name]; !known {
				return &FieldError{Path: at, Reason: reasonUnknown}
			}
		}
		if err := c.value(member, at, depth+1); err != nil {
			return err
		}
	}
	if _, err := c.dec.Token(); err != nil {
		return c.syntax(err)
	}
	return nil
}

func (c *fieldChecker) syntax(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &FieldError{Reason: "the document is empty or ends too early"}
	}
	return &FieldError{Reason: "not JSON: " + err.Error()}
}

// jsonFields gives the JSON names of a struct's fields with their types,
// embedded structs flattened as encoding/json does.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			for n, ft := range jsonFields(f.Type) {
				fields[n] = ft
			}
		case !f.IsExported() || name == "-":
		case name == "":
			fields[f.Name] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	return fields
}
