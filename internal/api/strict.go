package api

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
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

// reasonUnknown begins the FieldError's reason for a field that T does not have.
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
		got, _, _ := strings.Cut(e.Value, " ") // "number 1.5"
		if name, ok := jsonNames[got]; ok {
			got = name
		}
		return &FieldError{Path: e.Field, Reason: fmt.Sprintf("want %s, not %s", want, got)}
	}
	return &FieldError{Reason: err.Error()}
}

// jsonNames are what people call encoding/json's names of values.
var jsonNames = map[string]string{"object": "an object", "array": "a list", "string": "a string", "number": "a number", "bool": "true or false"}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return "a string (base64)"
		}
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
// the type of like does not have by exactly that name, that is there twice, or
// that holds another type of value.
// It serves readers of stored documents too: a role with a field that this
// version does not know denies (see internal/auth).
func CheckFields(b []byte, like any) error {
	return checkFields(b, reflect.TypeOf(like), nil)
}

// UnknownFields are all the fields of the JSON value that the type of like does
// not have: where the first is an error, a person wants to hear of the others too.
func UnknownFields(b []byte, like any) []*FieldError {
	var all []*FieldError
	_ = checkFields(b, reflect.TypeOf(like), &all) // what else is wrong is CheckFields's to say
	return all
}

func checkFields(b []byte, t reflect.Type, unknown *[]*FieldError) error {
	c := fieldChecker{dec: json.NewDecoder(bytes.NewReader(b)), root: t, unknown: unknown}
	c.dec.UseNumber()
	if err := c.value(t, "", 0); err != nil {
		return err
	}
	if _, err := c.dec.Token(); !errors.Is(err, io.EOF) {
		return &FieldError{Reason: "something follows the document"}
	}
	return nil
}

type fieldChecker struct {
	dec     *json.Decoder
	root    reflect.Type
	unknown *[]*FieldError // collects unknown fields; nil: the first ends the check
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	valuesType      = reflect.TypeFor[Values]()
	rawType         = reflect.TypeFor[json.RawMessage]()
)

// value reads one value. t is nil where any fields may stand.
func (c *fieldChecker) value(t reflect.Type, path string, depth int) error {
	if depth > maxJSONDepth {
		return &FieldError{Path: path, Reason: fmt.Sprintf("nested deeper than %d levels", maxJSONDepth)}
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == rawType {
		t = nil
	}
	readsItself := t != nil && t != valuesType &&
		(reflect.PointerTo(t).Implements(jsonUnmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler))
	token, err := c.dec.Token()
	if err != nil {
		return c.syntax(err)
	}
	delim, _ := token.(json.Delim)
	if readsItself {
		if delim == 0 && token != nil {
			return readItself(t, token, path)
		}
		t = nil
	}
	if err := checkType(t, token, path); err != nil {
		return err
	}
	switch delim {
	case '{':
		return c.object(t, path, depth)
	case '[':
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

// readItself lets a type that decodes itself (a duration, a time) try a scalar,
// so that its refusal names the field.
func readItself(t reflect.Type, token json.Token, path string) error {
	b, err := json.Marshal(token)
	if err == nil {
		err = json.Unmarshal(b, reflect.New(t).Interface())
	}
	if err == nil {
		return nil
	}
	reason := err.Error()
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		reason = "want " + readableAs(t) + ", not " + tokenName(token)
	}
	return &FieldError{Path: path, Reason: reason}
}

// readableAs names what a type that decodes itself takes.
func readableAs(t reflect.Type) string {
	if t == reflect.TypeFor[Duration]() {
		return "a duration such as 12h or 30m"
	}
	return "a string"
}

// checkType compares the JSON type of a value with what t takes. A null stands
// for the zero value, as encoding/json reads it.
func checkType(t reflect.Type, token json.Token, path string) error {
	if t == nil || token == nil {
		return nil
	}
	ok := true
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		_, text := token.(string)
		ok = token == json.Delim('[') || text && (t == valuesType || t.Elem().Kind() == reflect.Uint8)
	case reflect.Struct, reflect.Map:
		ok = token == json.Delim('{')
	case reflect.String:
		_, ok = token.(string)
	case reflect.Bool:
		_, ok = token.(bool)
	case reflect.Interface:
	default:
		_, ok = token.(json.Number)
	}
	if ok {
		return nil
	}
	want := kindName(t)
	switch t {
	case valuesType:
		want = "a string or a list of strings"
	case reflect.TypeFor[SecondFactor]():
		want = "one of " + strings.Join(secondFactors, ", ") // an unquoted yes is no string to everyone
	}
	return &FieldError{Path: path, Reason: "want " + want + ", not " + tokenName(token)}
}

func tokenName(token json.Token) string {
	switch v := token.(type) {
	case json.Delim:
		if v == '[' {
			return jsonNames["array"]
		}
		return jsonNames["object"]
	case string:
		return jsonNames["string"]
	case bool:
		return jsonNames["bool"]
	default:
		return jsonNames["number"]
	}
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
				err := &FieldError{Path: at, Reason: reasonUnknown + c.likely(name, fields)}
				if c.unknown == nil {
					return err
				}
				*c.unknown = append(*c.unknown, err)
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

// likely says where an unknown field belongs or which was meant, as the end of a
// message.
func (c *fieldChecker) likely(name string, fields map[string]reflect.Type) string {
	if near := Nearest(strings.ToLower(name), slices.Sorted(maps.Keys(fields))); near != "" {
		return ", did you mean " + near + "?"
	}
	if path := find(c.root, name, 0); path != "" {
		return ", it belongs at " + path
	}
	return ""
}

// find is the path of a field of that name in a document's type, or "".
func find(t reflect.Type, name string, depth int) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct || depth > 4 {
		return ""
	}
	fields := jsonFields(t)
	if _, ok := fields[name]; ok {
		return name
	}
	for _, member := range slices.Sorted(maps.Keys(fields)) {
		if path := find(fields[member], name, depth+1); path != "" {
			return member + "." + path
		}
	}
	return ""
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
