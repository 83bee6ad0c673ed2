package api

import (
	"net/url"
	"strconv"
	"time"
)

// Values writes a query as that of a URL; ParseQuery reads it.
func (q AuditQuery) Values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	if !q.Since.IsZero() {
		set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	set("user", q.User)
	for _, t := range q.Types {
		v.Add("type", t)
	}
	set("cluster", q.Cluster)
	set("grep", q.Grep)
	if q.After > 0 {
		set("after", strconv.FormatUint(q.After, 10))
	}
	if q.Before > 0 {
		set("before", strconv.FormatUint(q.Before, 10))
	}
	if q.Newest {
		set("newest", "true")
	}
	if q.Limit != 0 {
		set("limit", strconv.Itoa(q.Limit))
	}
	if q.Wait != 0 {
		set("wait", time.Duration(q.Wait).String())
	}
	return v
}

// ParseQuery reads what Values wrote. It looks at the form alone; what a search
// refuses, it says itself. An unknown name is refused: a filter that is not
// understood would show more than was asked for.
func ParseQuery(v url.Values) (AuditQuery, error) {
	var q AuditQuery
	for name, values := range v {
		if len(values) > 1 && name != "type" {
			return AuditQuery{}, Errorf(CodeInvalid, "%s is given %d times, only once is allowed", name, len(values))
		}
		for _, value := range values {
			if err := q.set(name, value); err != nil {
				return AuditQuery{}, err
			}
		}
	}
	return q, nil
}

// set takes one name of a URL's query. An empty value, as an untouched field of
// a form sends it, is none.
func (q *AuditQuery) set(name, value string) error {
	var err error
	form := ""
	switch name {
	case "since":
		form, err = "a time such as 2026-11-23T15:04:05Z", parseTime(&q.Since, value)
	case "until":
		form, err = "a time such as 2026-11-23T15:04:05Z", parseTime(&q.Until, value)
	case "user":
		q.User = value
	case "type":
		if value != "" {
			q.Types = append(q.Types, value)
		}
	case "cluster":
		q.Cluster = value
	case "grep":
		q.Grep = value
	case "after":
		form, err = "the number of a line", parseNumber(&q.After, value)
	case "before":
		form, err = "the number of a line", parseNumber(&q.Before, value)
	case "newest":
		if value != "" {
			form = "true or false"
			q.Newest, err = strconv.ParseBool(value)
		}
	case "limit":
		if value != "" {
			form = "a number"
			q.Limit, err = strconv.Atoi(value)
		}
	case "wait":
		if value != "" {
			form, err = "a duration such as 20s", q.Wait.UnmarshalText([]byte(value))
		}
	default:
		return Errorf(CodeInvalid, "the audit log can't be searched by %.64q: use since, until, user, type, cluster, grep, after, before, newest, limit or wait", name)
	}
	if err != nil {
		return Errorf(CodeInvalid, "%s: %.64q is not %s", name, value, form)
	}
	return nil
}

func parseTime(to *time.Time, value string) (err error) {
	if value != "" {
		*to, err = time.Parse(time.RFC3339Nano, value)
	}
	return err
}

func parseNumber(to *uint64, value string) (err error) {
	if value != "" {
		*to, err = strconv.ParseUint(value, 10, 64)
	}
	return err
}
