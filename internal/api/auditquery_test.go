package api

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAuditQueriesSurviveAURL(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 600, time.UTC)
	for _, q := range []AuditQuery{
		{},
		{Since: at, Until: at.Add(time.Hour), User: "a*&b=c", Types: []string{"user.*", "T1000I"}, Cluster: "^x|y$", Grep: "a+ b%", After: 1<<64 - 1, Limit: 7, Wait: Duration(20 * time.Second)},
		{Before: 9, Newest: true, Limit: -1},
	} {
		v, err := url.ParseQuery(q.Values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseQuery(v)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(q, got); diff != "" {
			t.Errorf("(-sent +got):\n%s", diff)
		}
	}
}

func TestAuditQueriesThatCannotBeReadAreRefused(t *testing.T) {
	for query, want := range map[string]string{
		"users=a":         "can't be searched by",
		"user=a&user=b":   "2 times",
		"since=yesterday": "since",
		"until=1":         "until",
		"after=-1":        "after",
		"before=1.5":      "before",
		"newest=maybe":    "true or false",
		"limit=many":      "limit",
		"wait=20":         "duration",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseQuery(v); !IsCode(err, CodeInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", query, err)
		}
	}
}

func TestEmptyFieldsOfAFormAreNoFilters(t *testing.T) {
	v, err := url.ParseQuery("since=&until=&user=&type=&cluster=&grep=&after=&before=&newest=&limit=&wait=")
	if err != nil {
		t.Fatal(err)
	}
	if q, err := ParseQuery(v); err != nil || !cmp.Equal(q, AuditQuery{}) {
		t.Errorf("got %+v, %v", q, err)
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add("since=2030-01-02T03:04:05Z&type=a&type=b&after=1&wait=1s")
	f.Add("newest=1&before=3&limit=0")
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		q, err := ParseQuery(v)
		if err != nil {
			return
		}
		again, err := ParseQuery(q.Values())
		if err != nil || !again.Since.Equal(q.Since) || !again.Until.Equal(q.Until) {
			t.Fatalf("%q: %+v, then %+v: %v", query, q, again, err)
		}
		again.Since, again.Until = q.Since, q.Until
		if diff := cmp.Diff(q, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
