package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func auditCommand() cliapp.Command {
	return cliapp.Command{
		Name: "audit", Usage: "read, check and copy the audit log",
		Commands: []cliapp.Command{
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list events, the newest 100 unless you say more",
				Description: "Times are durations before now (1h, 2d), dates (2026-11-23, 2026-11-23 14:30), or\nRFC 3339 (2026-11-23T14:30:00Z); without a zone they are local. As the end, a day\n" +
					"alone counts to its own end. USER, CLUSTER and TYPE may be patterns as in roles:\n* stands for any text, ^…$ is a regular expression. --format=json prints the lines\n" +
					"as they stand in the log. If the replica lacks lines of the log, standard error\nsays which, and the exit status is 1.",
				Examples: []string{
					"tctl audit ls --since=1h --user=alice",
					"tctl audit ls --type=user.login --grep='\"success\":false' --limit=0",
					"tctl audit ls --follow --format=json | jq -r '.user'",
				},
				Flags: []cliapp.Flag{
					{Name: "since", Usage: "events from `TIME` on"},
					{Name: "until", Usage: "events before `TIME`"},
					{Name: "user", Usage: "what `USER` did", Complete: completeAnyUser},
					{Name: "type", Kind: cliapp.Strings, Usage: "events of `TYPE`, a name or a code; more after commas", Complete: completeEventTypes},
					{Name: "cluster", Usage: "what was done in the Kubernetes cluster `CLUSTER`", Complete: completeKubeClusters},
					{Name: "grep", Usage: "events whose line in the log matches the regular expression `REGEXP` (RE2)"},
					{Name: "limit", Kind: cliapp.Int, Usage: "at most `NUMBER` events; 0: all", Default: "100"},
					{Name: "oldest", Kind: cliapp.Bool, Usage: "if there are more, show the oldest instead of the newest"},
					{Name: "follow", Aliases: []string{"f"}, Kind: cliapp.Bool, Usage: "go on with events as they come, until Ctrl-C"},
					formatFlag("text"),
				},
				Run: auditListing,
			},
			{
				Name: "verify", Usage: "check that nobody has changed the audit log", ArgsUsage: "[FILE...]", MaxArgs: -1,
				Description: "Without a FILE, the replica walks through its own log and compares it with what\nthe cluster agreed on; it names the first line that was changed, removed or added.\n" +
					"With files (from 'tctl audit export', or a replica's own, oldest first, '-' for\nstandard input, gzip or not) this machine checks them, and asks nobody. " +
					"Such a\nfile proves itself only as far as --head reaches.\n\nThe last line's number and hash stand for everything before it: keep them where\nnobody who can write the log can write, and compare with --head later.",
				Examples: []string{"tctl audit verify --all", "tctl audit verify events.log.gz"},
				Flags: []cliapp.Flag{
					{Name: "all", Kind: cliapp.Bool, Usage: "check all replicas"},
					{Name: "head", Usage: "compare with `NUMBER:HASH`, which was printed before"},
					formatFlag("text"),
				},
				Run: auditVerify,
			},
			{
				Name: "export", Usage: "copy the audit log, and check it on the way",
				Description: "Lines are written as they stand in the log, each event once. A FILE is there\nwhen it is complete, and replaces one of that name; only you may read it, and it\nis compressed if it ends in .gz.",
				Examples:    []string{"tctl audit export --out=events.log.gz", "tctl audit export --from=100001 | zstd > events.zst"},
				Flags: []cliapp.Flag{
					{Name: "from", Usage: "begin with the line of that `NUMBER`; default the first"},
					{Name: "to", Usage: "end with the line of that `NUMBER`; default the last"},
					{Name: "out", Usage: "write to `FILE` instead of standard output"},
				},
				Run: auditExport,
			},
		},
	}
}

func auditListing(ctx context.Context, c *cliapp.Call) error {
	q, err := auditQuery(c, time.Now())
	if err != nil {
		return err
	}
	limit := c.Int("limit")
	switch {
	case limit < 0:
		return api.Errorf(api.CodeInvalid, "--limit=%d: give a number of events, or 0 for all", limit)
	case c.Bool("follow") && !q.Until.IsZero():
		return api.Errorf(api.CodeInvalid, "--follow has no end, and --until is one: give one of them")
	case c.Bool("follow") && c.Bool("oldest") && limit > 0:
		return api.Errorf(api.CodeInvalid, "--follow goes on after the newest: give --oldest without it, or --limit=0, which shows all")
	}
	noteTypes(c, q.Types)
	return withReplica(c, func(r *replica) error {
		l := &auditLister{ask: r.Audit, query: q, limit: limit, print: printer(c, time.Local), ticker: newTicker(c), note: c.Notef}
		var after uint64
		var more bool
		var err error
		if limit == 0 || c.Bool("oldest") {
			after, more, err = l.oldest(ctx)
		} else {
			after, more, err = l.newest(ctx)
		}
		l.ticker.clear()
		if err != nil {
			return err
		}
		if more && c.String("format") == "text" && !c.Bool("follow") {
			these := "These are the newest " + thousands(uint64(limit)) //nolint:gosec // checked above
			if limit == 1 {
				these = "This is the newest one"
			}
			if c.Bool("oldest") {
				these = strings.Replace(these, "newest", "oldest", 1)
			}
			c.Notef("%s; there may be more: --limit=%d shows more of them, --limit=0 all.", these, 10*limit)
		}
		if l.shown == 0 && c.String("format") == "text" && !c.Bool("follow") {
			c.Notef("No events found")
		}
		if c.Bool("follow") {
			if err := l.follow(ctx, after); err != nil {
				return err
			}
			return l.lacking()
		}
		if l.shown == 0 && c.String("format") == "yaml" {
			c.Printf("[]\n")
		}
		return l.lacking()
	})
}

// auditQuery is what the flags ask for. What is wrong with them is said before a
// replica is asked.
func auditQuery(c *cliapp.Call, now time.Time) (q api.AuditQuery, err error) {
	q = api.AuditQuery{User: c.String("user"), Types: c.Strings("type"), Cluster: c.String("cluster"), Grep: c.String("grep")}
	if q.Since, err = api.ParseMoment(c.String("since"), now, false); err != nil {
		return q, api.Errorf(api.CodeInvalid, "--since=%s %w", c.String("since"), err)
	}
	if q.Until, err = api.ParseMoment(c.String("until"), now, true); err != nil {
		return q, api.Errorf(api.CodeInvalid, "--until=%s %w", c.String("until"), err)
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		return q, api.Errorf(api.CodeInvalid, "--since (%s) is not before --until (%s)", q.Since.Format(time.RFC3339), q.Until.Format(time.RFC3339))
	}
	for flag, patterns := range map[string][]string{"user": {q.User}, "cluster": {q.Cluster}, "type": q.Types} {
		for _, p := range patterns {
			if api.HalfExpression(p) {
				return q, api.Errorf(api.CodeInvalid, "--%s=%s: a regular expression begins with ^ and ends with $", flag, p)
			}
			if _, err := api.CompilePattern(p); err != nil {
				return q, api.Errorf(api.CodeInvalid, "--%s=%s: %w", flag, p, err)
			}
		}
	}
	if _, err := regexp.Compile(q.Grep); err != nil {
		return q, api.Errorf(api.CodeInvalid, "--grep=%s: %w; a backslash makes any character stand for itself", q.Grep, err)
	}
	return q, nil
}

// noteTypes says that a type is none that this tctl knows: the replicas may be newer,
// so that it is no error.
func noteTypes(c *cliapp.Call, types []string) {
	if scripted(c) {
		return
	}
	known := eventTypes()
	for _, t := range types {
		if !strings.ContainsAny(t, "*^$") && !slices.Contains(known, t) {
			c.Warnf("this tctl knows no event %q%s", t, api.DidYouMean(t, known))
		}
	}
}

// eventTypes are the names of events, then their codes.
func eventTypes() []string { return append(api.EventNames(), api.EventCodes()...) }

func completeEventTypes(*cliapp.Call) []string { return eventTypes() }

// plural is a number of things for people: 1 line, 1,234 lines.
func plural(n uint64, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return thousands(n) + " " + thing
}

// thousands writes a count for people. The number of a line stays as commands take it.
func thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
