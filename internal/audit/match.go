package audit

import (
	"bytes"
	"encoding/json"
	"math/bits"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// matcher decides which lines a query means. There are many lines, so most are to
// be refused by looking for a few bytes; only what is left is taken apart.
type matcher struct {
	since, until  time.Time
	user, cluster *api.Pattern
	types         []api.Pattern
	grep          *regexp.Regexp // nil if grepText says all
	grepText      []byte         // a part of whatever grep matches
	steps         int            // that a byte of a line may cost, of all expressions

	// A matching line holds one of each group, unless it spells a text with an escape.
	needs [][][]byte
}

func newMatcher(q api.AuditQuery) (*matcher, error) {
	if err := checkQuery(q); err != nil {
		return nil, err
	}
	m := &matcher{since: q.Since, until: q.Until}
	var err error
	if m.user, err = m.pattern("user", q.User); err != nil {
		return nil, err
	}
	if m.cluster, err = m.pattern("cluster", q.Cluster); err != nil {
		return nil, err
	}
	var group [][]byte
	for _, t := range q.Types {
		if err := m.charge("type", inner(t)); err != nil {
			return nil, err
		}
		p, err := api.CompilePattern(t)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "type %q is no pattern: %w", t, err)
		}
		m.types = append(m.types, p)
		group = append(group, literal(t))
	}
	m.need(group)
	if q.Grep == "" {
		return m, nil
	}
	if err := m.charge("grep", q.Grep); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(q.Grep)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "grep: %q is no regular expression: %w", q.Grep, err)
	}
	m.grep, m.grepText = re, requiredText(q.Grep)
	if isText(q.Grep) {
		m.grep = nil
	}
	return m, nil
}

// maxSteps bounds what the regular expressions of a query may do for each byte of the
// log: RE2 is linear in the text, but as many times as its program has steps, and
// .{0,999} alone has two thousand.
const maxSteps = 2000

// charge counts what an expression costs, before it is compiled: its repetitions are
// not spelled out yet. One that is none is left to who compiles it.
func (m *matcher) charge(name, expr string) error {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	if m.steps += stepsOf(re); m.steps > maxSteps {
		return api.Errorf(api.CodeInvalid, "%s: this expression costs too much: x{0,99} counts as a hundred of x. Use x* instead, or search for less at a time", name)
	}
	return nil
}

// stepsOf is at least how many instructions the compiled expression has.
func stepsOf(re *syntax.Regexp) int {
	n := 1
	for _, sub := range re.Sub {
		n += stepsOf(sub)
	}
	switch re.Op {
	case syntax.OpLiteral:
		n += len(re.Rune)
	case syntax.OpCharClass:
		n += bits.Len(uint(len(re.Rune))) // it is looked up
	case syntax.OpAlternate:
		n += len(re.Sub)
	case syntax.OpCapture, syntax.OpStar:
		n++
	case syntax.OpRepeat:
		n *= max(re.Min, re.Max, 1) // the parser bounds it, nested ones too
	default:
	}
	return n
}

// inner is the regular expression of a pattern; "": it is none.
func inner(pattern string) string {
	if len(pattern) > 1 && pattern[0] == '^' && pattern[len(pattern)-1] == '$' {
		return pattern[1 : len(pattern)-1]
	}
	return ""
}

// isText says whether an expression is a plain text: what holds it matches.
func isText(expr string) bool {
	re, err := syntax.Parse(expr, syntax.Perl)
	return err == nil && re.Op == syntax.OpLiteral && re.Flags&syntax.FoldCase == 0
}

func (m *matcher) pattern(name, v string) (*api.Pattern, error) {
	if v == "" {
		return nil, nil //nolint:nilnil // no pattern is no filter
	}
	if err := m.charge(name, inner(v)); err != nil {
		return nil, err
	}
	p, err := api.CompilePattern(v)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "%s %q is no pattern: %w", name, v, err)
	}
	m.need([][]byte{literal(v)})
	return &p, nil
}

func (m *matcher) need(group [][]byte) {
	if len(group) == 0 {
		return
	}
	for _, text := range group {
		if len(text) == 0 {
			return
		}
	}
	m.needs = append(m.needs, group)
}

// literal is what a line must hold for a pattern to match in it; nil: nothing that
// is easily said.
func literal(pattern string) []byte {
	switch expr := inner(pattern); {
	case expr != "":
		return requiredText(expr)
	case strings.Contains(pattern, "*"):
		longest := ""
		for part := range strings.SplitSeq(pattern, "*") {
			if len(part) > len(longest) {
				longest = part
			}
		}
		return []byte(longest)
	}
	return []byte(`"` + pattern + `"`)
}

// requiredText is the longest text that all matches of a regular expression hold, as
// far as it is plain to see.
func requiredText(expr string) []byte {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	return []byte(required(re))
}

func required(re *syntax.Regexp) string {
	switch re.Op {
	case syntax.OpLiteral:
		if re.Flags&syntax.FoldCase == 0 {
			return string(re.Rune)
		}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		longest := ""
		for _, sub := range re.Sub {
			if s := required(sub); len(s) > len(longest) {
				longest = s
			}
		}
		return longest
	default:
	}
	return ""
}

func (m *matcher) timed() bool { return !m.since.IsZero() || !m.until.IsZero() }

// overlaps says whether events between two times may be meant.
func (m *matcher) overlaps(low, high time.Time) bool {
	return !high.IsZero() && !high.Before(m.since) && (m.until.IsZero() || low.Before(m.until))
}

// fields are those by which events are chosen. Text points into the line.
type fields struct {
	ok                bool // the line begins as Encode writes it
	event, code, user []byte
	time              time.Time
}

// head takes the beginning of a line apart, if the query is about what stands
// there: Encode puts these fields first, in this order.
func (m *matcher) head(line []byte) (f fields) {
	if !m.timed() && m.user == nil && m.types == nil {
		return f
	}
	rest, ok := line, true
	field := func(label string) []byte {
		if !ok || len(rest) < len(label) || string(rest[:len(label)]) != label {
			ok = false
			return nil
		}
		rest = rest[len(label):]
		i := bytes.IndexByte(rest, '"')
		if i < 0 || bytes.IndexByte(rest[:i], '\\') >= 0 {
			ok = false
			return nil
		}
		v := rest[:i]
		rest = rest[i+1:]
		return v
	}
	f.event = field(`{"event":"`)
	f.code = field(`,"code":"`)
	at := field(`,"time":"`)
	field(`,"uid":"`)
	if bytes.HasPrefix(rest, []byte(`,"cluster_name":`)) {
		field(`,"cluster_name":"`)
	}
	if bytes.HasPrefix(rest, []byte(`,"user":`)) {
		f.user = field(`,"user":"`)
	}
	if ok && m.timed() {
		ok = f.time.UnmarshalText(at) == nil
	}
	if f.ok = ok; !ok {
		f = decodeFields(line)
	}
	return f
}

// decoded is an event as far as a query is about it. Any: whoever proposed it may
// have put a number there.
type decoded struct {
	Event   any `json:"event"`
	Code    any `json:"code"`
	Time    any `json:"time"`
	User    any `json:"user"`
	Cluster any `json:"kubernetes_cluster"`
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func decodeFields(line []byte) (f fields) {
	var d decoded
	if json.Unmarshal(line, &d) != nil {
		return fields{}
	}
	f = fields{ok: true, event: []byte(text(d.Event)), code: []byte(text(d.Code)), user: []byte(text(d.User))}
	_ = f.time.UnmarshalText([]byte(text(d.Time))) // then it has none, and is at no time
	return f
}

// mayMatch is the cheap part: false says that a line is not meant.
func (m *matcher) mayMatch(line []byte) bool {
	escaped := -1
	for _, group := range m.needs {
		if holdsOne(line, group) {
			continue
		}
		if escaped < 0 {
			escaped = 0
			if bytes.IndexByte(line, '\\') >= 0 {
				escaped = 1
			}
		}
		if escaped == 0 {
			return false
		}
	}
	return m.grepText == nil || bytes.Contains(line, m.grepText)
}

// match says whether a line that may be meant is; head is what m.head said of it.
func (m *matcher) match(line []byte, head fields) bool {
	if m.timed() && (!head.ok || head.time.IsZero() || head.time.Before(m.since) || !m.until.IsZero() && !head.time.Before(m.until)) {
		return false
	}
	if m.user != nil && (!head.ok || !m.user.Match(string(head.user))) {
		return false
	}
	if m.types != nil && (!head.ok || !m.ofType(string(head.event), string(head.code))) {
		return false
	}
	if m.grep != nil && !m.grep.Match(line) {
		return false
	}
	if m.cluster != nil {
		var d decoded
		return json.Unmarshal(line, &d) == nil && m.cluster.Match(text(d.Cluster))
	}
	return json.Valid(line) // or the page could not be written
}

func holdsOne(line []byte, group [][]byte) bool {
	for _, text := range group {
		if bytes.Contains(line, text) {
			return true
		}
	}
	return false
}

func (m *matcher) ofType(event, code string) bool {
	for _, p := range m.types {
		if p.Match(event) || p.Match(code) {
			return true
		}
	}
	return false
}
