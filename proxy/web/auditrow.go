package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// Of what is shown beside the raw line, which has it all.
const (
	maxAuditName  = 96
	maxAuditValue = 400
	maxAuditParts = 200 // fields
)

// auditRow is an event of the log.
type auditRow struct {
	Number  uint64
	Hash    string // its beginning
	Time    moment
	Event   string
	Code    string
	User    string
	Cluster string // of Kubernetes
	Summary string
	Outcome string
	Bad     bool // refused or failed
	Fields  []auditField
	More    int // fields that only the raw line has
	Raw     string
}

type auditField struct {
	Name, Value string
	Cut         bool
}

// newAuditRow makes a row of a line. What a line says is a stranger's: it is text,
// and no more, wherever the page puts it.
func newAuditRow(line []byte) auditRow {
	row := auditRow{Raw: visible(string(line)), Outcome: "unreadable", Bad: true, Summary: "This line is no event that this version can read."}
	fields, whole := auditFields(line)
	for _, f := range fields {
		switch f.Name {
		case "number":
			row.Number, _ = strconv.ParseUint(f.Value, 10, 64) // 0: it has none
		case "hash":
			row.Hash = api.CleanText(f.Value, 12)
		case "kubernetes_cluster":
			row.Cluster = cutVisible(f.Value, maxAuditName)
		}
		if len(row.Fields) == maxAuditParts {
			row.More++
			continue
		}
		cut := cutVisible(f.Value, maxAuditValue)
		row.Fields = append(row.Fields, auditField{Name: cutVisible(f.Name, maxAuditName), Value: cut, Cut: len(f.Value) > maxAuditValue})
	}
	var e api.Event
	if !whole || json.Unmarshal(line, &e) != nil {
		return row
	}
	row.Time = moment{e.Time.UTC().Format(time.DateTime), e.Time.UTC().Format(time.RFC3339Nano), e.Time.UTC().Format("Monday, 2 January 2006, 15:04:05.000 UTC")}
	row.Event, row.Code, row.User = cutVisible(e.Event, maxAuditName), cutVisible(e.Code, 16), cutVisible(e.User, maxAuditName)
	row.Summary, row.Outcome = e.Summary(), e.Outcome()
	row.Bad = row.Outcome != api.OutcomeOK
	return row
}

// auditFields are the members of a line in its order: strings as what they stand
// for, other values as JSON. Not whole: the line is no JSON object.
func auditFields(line []byte) (fields []auditField, whole bool) {
	d := json.NewDecoder(bytes.NewReader(line))
	if tok, err := d.Token(); err != nil || tok != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fields, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fields, false
		}
		f := auditField{Name: fmt.Sprint(name), Value: string(value)}
		if value[0] == '"' && json.Unmarshal(value, &f.Value) != nil {
			return fields, false
		}
		fields = append(fields, f)
	}
	return fields, true
}

// cutVisible is visible of the beginning of a text.
func cutVisible(s string, most int) string {
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		return visible(s[:most]) + "…"
	}
	return visible(s)
}

// visible writes out what is not seen, or turns the line round, as JSON does: an
// auditor should see that it is there, and nothing should be hidden by it.
func visible(s string) string {
	hidden := func(r rune) bool { return r != ' ' && (!unicode.IsGraphic(r) || unicode.Is(unicode.Zs, r)) }
	if s = strings.ToValidUTF8(s, "\ufffd"); !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
