package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/audit/chain"
)

// Bounds of one line, in bytes.
const (
	MaxString = 4 << 10  // of one string, before escaping
	MaxLine   = 32 << 10 // of the whole line, without the fields that the journal adds
)

// budget bounds what goes into a line. When the line is still too long under
// one budget, the next and tighter one is tried: an honest event meets the
// first alone, and the last cannot exceed MaxLine whatever the event holds.
type budget struct {
	str   int // bytes of a string
	items int // members of each list and object
	depth int // levels below the event
}

var budgets = [...]budget{
	{MaxString, 1024, 8},
	{1024, 256, 8},
	{256, 64, 4},
	{64, 32, 2},
	{32, 8, 1},
}

// ours are the field names that an event's Fields may not set: the common
// ones, the mark of truncation, and those that a line ends with.
var ours = map[string]bool{
	"event": true, "code": true, "time": true, "uid": true, "cluster_name": true, "user": true,
	"truncated": true, chain.FieldReplica: true, chain.FieldIndex: true, chain.FieldNumber: true, chain.FieldHash: true,
}

// Encode writes an event as one line of JSON without its line feed, in the
// order of api.Event's own marshalling. Whatever the strings hold, the line is
// valid JSON of printable characters:
// controls, line and paragraph separators, format characters (bidirectional
// marks among them) are escaped as \u, a byte that is no UTF-8 becomes the text
// \xNN. Strings over MaxString are cut, and lists and strings are cut further
// until the line fits MaxLine; "truncated":true says that something is missing.
// A field that takes one of our names is renamed to x_NAME rather than lost.
//
// The only error is an event without name or code, a mistake of the caller.
func Encode(ev api.Event) ([]byte, error) {
	if ev.Event == "" || ev.Code == "" {
		return nil, errors.New("encode audit event: it needs a name and a code")
	}
	line := make([]byte, 0, 1<<10)
	for i, b := range budgets {
		e := encoder{buf: line[:0], budget: b, truncated: i > 0, limit: MaxLine}
		e.event(ev)
		line = e.buf
		if len(line) <= MaxLine {
			break
		}
	}
	return line, nil
}

// isOurs disregards case, as JSON readers in Go do (whose folding also takes ſ
// for s and the Kelvin sign for k).
func isOurs(name string) bool {
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || c == '_' || c == '.') {
			return ours[strings.ToLower(strings.ToUpper(name))]
		}
	}
	return ours[name] // the usual case, without an allocation
}

type encoder struct {
	buf []byte
	budget
	ascii     bool // all else is escaped: the same on all replicas, whatever Unicode they know
	truncated bool
	limit     int // of buf, beyond which the line is given up; 0: none
}

// over says that this budget was too wide: what follows is not worth writing.
func (e *encoder) over() bool { return e.limit > 0 && len(e.buf) > e.limit }

func (e *encoder) event(ev api.Event) {
	e.buf = append(e.buf, `{"event":`...)
	e.string(ev.Event)
	e.buf = append(e.buf, `,"code":`...)
	e.string(ev.Code)
	e.buf = append(e.buf, `,"time":`...)
	e.time(ev.Time)
	e.buf = append(e.buf, `,"uid":`...)
	e.string(ev.UID)
	if ev.ClusterName != "" {
		e.buf = append(e.buf, `,"cluster_name":`...)
		e.string(ev.ClusterName)
	}
	if ev.User != "" {
		e.buf = append(e.buf, `,"user":`...)
		e.string(ev.User)
	}
	for _, k := range e.first(sortedKeys(ev.Fields)) {
		if e.over() {
			return
		}
		e.buf = append(e.buf, ',')
		if isOurs(k) {
			e.string("x_" + k)
		} else {
			e.string(k)
		}
		e.buf = append(e.buf, ':')
		e.value(ev.Fields[k], e.depth)
	}
	if e.truncated {
		e.buf = append(e.buf, `,"truncated":true`...)
	}
	e.buf = append(e.buf, '}')
}

// value writes the types that callers use without reflection, and others by
// way of encoding/json.
func (e *encoder) value(v any, depth int) {
	switch v := v.(type) {
	case nil:
		e.buf = append(e.buf, "null"...)
	case string:
		e.string(v)
	case bool:
		e.buf = strconv.AppendBool(e.buf, v)
	case int:
		e.buf = strconv.AppendInt(e.buf, int64(v), 10)
	case int64:
		e.buf = strconv.AppendInt(e.buf, v, 10)
	case uint64:
		e.buf = strconv.AppendUint(e.buf, v, 10)
	case float64:
		e.float(v)
	case json.Number:
		e.number(v)
	case time.Time:
		e.time(v)
	case time.Duration:
		e.string(v.String())
	case error:
		e.string(v.Error())
	case []string:
		list(e, v, depth, func(s string, _ int) { e.string(s) })
	case []any:
		list(e, v, depth, e.value)
	case map[string]string:
		object(e, v, depth, func(s string, _ int) { e.string(s) })
	case map[string][]string:
		object(e, v, depth, func(s []string, d int) { e.value(s, d) })
	case map[string]any:
		object(e, v, depth, e.value)
	default:
		e.other(v, depth)
	}
}

// other takes a value through encoding/json into the few types that value knows.
func (e *encoder) other(v any, depth int) {
	b, err := json.Marshal(v)
	if err != nil {
		e.string(fmt.Sprintf("cannot encode %T: %v", v, err))
		return
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var plain any
	if err := dec.Decode(&plain); err != nil {
		e.string(fmt.Sprintf("cannot encode %T: %v", v, err))
		return
	}
	e.value(plain, depth)
}

func list[T any](e *encoder, items []T, depth int, write func(T, int)) {
	if depth == 0 && len(items) > 0 {
		e.truncated = true
		items = nil
	}
	e.buf = append(e.buf, '[')
	if len(items) > e.items {
		e.truncated = true
		items = items[:e.items]
	}
	for i, v := range items {
		if e.over() {
			return
		}
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		write(v, depth-1)
	}
	e.buf = append(e.buf, ']')
}

func object[T any](e *encoder, m map[string]T, depth int, write func(T, int)) {
	if depth == 0 && len(m) > 0 {
		e.truncated = true
		m = nil
	}
	e.buf = append(e.buf, '{')
	for i, k := range e.first(sortedKeys(m)) {
		if e.over() {
			return
		}
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.string(k)
		e.buf = append(e.buf, ':')
		write(m[k], depth-1)
	}
	e.buf = append(e.buf, '}')
}

// first cuts keys to the budget.
func (e *encoder) first(keys []string) []string {
	if len(keys) <= e.items {
		return keys
	}
	e.truncated = true
	return keys[:e.items]
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// time writes RFC 3339; a year that it has no digits for becomes the zero time.
func (e *encoder) time(t time.Time) {
	t = t.UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		t = time.Time{}
	}
	e.buf = append(e.buf, '"')
	e.buf = t.AppendFormat(e.buf, time.RFC3339Nano)
	e.buf = append(e.buf, '"')
}

func (e *encoder) float(f float64) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		e.string(strconv.FormatFloat(f, 'g', -1, 64))
		return
	}
	e.buf = strconv.AppendFloat(e.buf, f, 'g', -1, 64)
}

// number writes a json.Number if it is one: the type is a string that its
// maker may have filled with anything.
func (e *encoder) number(n json.Number) {
	if len(n) <= 64 && n != "" && (n[0] == '-' || '0' <= n[0] && n[0] <= '9') && json.Valid([]byte(n)) {
		e.buf = append(e.buf, n...)
		return
	}
	e.string(string(n))
}

// string writes s quoted, escaped and cut to the budget.
func (e *encoder) string(s string) {
	if len(s) > e.str {
		e.truncated = true
		cut := e.str
		for back := 0; back < utf8.UTFMax-1 && cut > 0 && !utf8.RuneStart(s[cut]); back++ {
			cut-- // never inside a character
		}
		s = s[:cut]
	}
	e.buf = append(e.buf, '"')
	plain := 0 // s[plain:i] needs no escape
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if plainASCII(c) {
				i++
				continue
			}
			e.buf = append(e.buf, s[plain:i]...)
			e.escapeASCII(c)
			i++
			plain = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			e.buf = append(e.buf, s[plain:i]...)
			e.buf = append(e.buf, `\\x`...)
			e.buf = append(e.buf, hexDigits[c>>4], hexDigits[c&15])
			i++
			plain = i
			continue
		}
		if e.ascii || !unicode.IsPrint(r) {
			e.buf = append(e.buf, s[plain:i]...)
			e.escapeRune(r)
			plain = i + size
		}
		i += size
	}
	e.buf = append(e.buf, s[plain:]...)
	e.buf = append(e.buf, '"')
}

const hexDigits = "0123456789abcdef"

// plainASCII leaves < and > to be escaped, so that a line pasted into a page is
// text there.
func plainASCII(c byte) bool {
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\' && c != '<' && c != '>'
}

func (e *encoder) escapeASCII(c byte) {
	switch c {
	case '"', '\\':
		e.buf = append(e.buf, '\\', c)
	case '\n':
		e.buf = append(e.buf, `\n`...)
	case '\r':
		e.buf = append(e.buf, `\r`...)
	case '\t':
		e.buf = append(e.buf, `\t`...)
	default:
		e.escape16(rune(c))
	}
}

func (e *encoder) escapeRune(r rune) {
	if r < 0x10000 {
		e.escape16(r)
		return
	}
	r -= 0x10000 // a surrogate pair, as JSON wants it (RFC 8259, section 7)
	e.escape16(0xd800 + r>>10)
	e.escape16(0xdc00 + r&0x3ff)
}

// escape16 writes one UTF-16 code unit, so u < 0x10000.
func (e *encoder) escape16(u rune) {
	e.buf = append(e.buf, '\\', 'u', hexDigits[u>>12&15], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
}
