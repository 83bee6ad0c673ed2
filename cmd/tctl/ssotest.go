package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/yamldoc"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

// askAgain is the least time between two questions about a test: a replica answers
// after up to 20 s, but one that can't wait must not be asked in a loop.
const askAgain = 200 * time.Millisecond

func ssoTest(ctx context.Context, c *cliapp.Call) error {
	name := c.String("connector")
	if name != "" && len(c.Args) > 0 {
		return api.Errorf(api.CodeInvalid, "give a FILE or --connector, not both")
	}
	if name != "" {
		if err := api.ValidateName("connector", name); err != nil {
			return err
		}
	}
	req := &api.SSOTestRequest{Name: name}
	var doc api.Connector
	file, line := "", func(error) int { return 0 }
	if name == "" {
		read, from, err := readConnector(c)
		if err != nil {
			return err
		}
		doc, _ = read.Value.(api.Connector)
		req.Document, file = read.JSON, from
		line = func(err error) int { return refusedLine(read, err) }
	}
	return withReplica(c, func(r *replica) error {
		if name != "" { // for what helps alone: whoever may not read it may try it
			doc, _ = fetchConnector(ctx, r, name)
		}
		test, err := r.StartSSOTest(ctx, req)
		switch {
		case file != "" && api.IsCode(err, api.CodeInvalid):
			return api.Errorf(api.CodeInvalid, "%s, line %d: %w", file, line(err), err)
		case file != "" && api.IsCode(err, api.CodeNotFound): // no such call
			return api.Errorf(api.CodeNotFound, "the replica runs an older version, which knows no connectors")
		}
		if err != nil {
			return err
		}
		result, err := awaitTest(ctx, c, r, doc, test)
		if err != nil {
			return err
		}
		return tell(c, doc, result)
	})
}

// readConnector reads the one document that is to be tried.
func readConnector(c *cliapp.Call) (*yamldoc.Document, string, error) {
	file, text, err := readInput(c)
	if err != nil {
		return nil, "", err
	}
	docs, err := yamldoc.Decode(text)
	if err != nil {
		return nil, "", inFile(file, err)
	}
	if len(docs) > 1 {
		return nil, "", api.Errorf(api.CodeInvalid, "%s, line %d: one connector is tried, here begins another document", file, docs[1].Line)
	}
	if _, ok := docs[0].Value.(api.Connector); !ok {
		return nil, "", api.Errorf(api.CodeInvalid, "%s, line %d: this is no connector: want kind: github, oidc or saml", file, docs[0].Line)
	}
	return &docs[0], file, nil
}

// awaitTest waits until the person has come back from the identity provider.
func awaitTest(ctx context.Context, c *cliapp.Call, r *replica, doc api.Connector, test *api.SSOTest) (*api.SSOTestResult, error) {
	say := c.Printf
	if scripted(c) { // the link is no part of the data, but without it there will be none
		say = func(format string, args ...any) {
			c.Notef("%s", strings.TrimSuffix(fmt.Sprintf(format, args...), "\n"))
		}
	}
	say("Open this link in any browser and log in at the identity provider; nothing is saved:\n%s\n", test.URL)
	if doc != nil {
		c.Notef("%s", wrongThere(doc, test.URL))
	}
	c.Notef("Waiting until %s (Ctrl-C ends it).", test.Expires.Local().Format("15:04"))
	for {
		asked := time.Now()
		result, err := r.SSOTest(ctx, test.ID)
		if api.IsCode(err, api.CodeNotFound) {
			return nil, errors.New("nobody has finished the login in time: give the command again")
		}
		if err != nil || result.Done {
			return result, err
		}
		pause := time.NewTimer(askAgain - time.Since(asked))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		case <-pause.C:
		}
	}
}

// wrongThere says what to compare where the identity provider shows an error and
// sends nobody back: then nobody here hears of it.
func wrongThere(doc api.Connector, page string) string {
	field, paths := doc.Callback()
	callback := field.Value
	if u, err := url.Parse(page); err == nil && callback == "" {
		callback = api.CallbackURL(u.Host, paths[0])
	}
	if doc.ConnectorKind() == api.KindSAML {
		return "If the provider itself shows an error, compare what it has as its reply (ACS) URL and as audience: both are " + callback
	}
	return "If the provider itself shows an error, compare spec.client_id, and that it allows " + callback
}

// tell prints what came of a test; that nobody would be logged in is an error.
func tell(c *cliapp.Call, doc api.Connector, result *api.SSOTestResult) error {
	err := show(c, result, func() {
		if result.Identity != nil {
			printIdentity(c, result.Identity)
		}
		if result.Mapping != nil {
			printMapping(c, result.Mapping)
		}
		if result.Error != "" && (result.Identity != nil || result.Mapping != nil) {
			c.Printf("\n") // before what is wrong
		}
		for _, text := range result.Warnings {
			c.Warnf("%s", text)
		}
	})
	if err != nil {
		return err
	}
	if result.Error == "" {
		if !scripted(c) {
			c.Printf("\nThis login would work. Nothing was saved.\n")
		}
		return nil
	}
	reason := "nobody would be logged in: " + result.Error
	if near := closest(doc, result); near != "" {
		reason += "\n" + near
	}
	return errors.New(reason + "\nNothing was saved.")
}

func printIdentity(c *cliapp.Call, id *api.SSOIdentity) {
	c.Printf("\nThe identity provider says:\n")
	printPairs(c, [][2]string{{"Subject", id.Subject}, {"Username", id.Username}})
	if !id.Expires.IsZero() {
		printPairs(c, [][2]string{{"Session until", id.Expires.UTC().Format(time.RFC3339)}})
	}
	if len(id.Teams) > 0 {
		rows := make([][]string, len(id.Teams))
		for i, t := range id.Teams {
			rows[i] = []string{t.Organization, t.Slug, fmt.Sprint(t.OrganizationID)}
		}
		c.Printf("\n")
		c.Table([]string{"Organization", "Team", "Organization ID"}, rows)
	}
	if len(id.Attributes) > 0 {
		c.Printf("\n")
		c.Table([]string{"Attribute", "Values"}, valueRows(id.Attributes))
	}
}

func printMapping(c *cliapp.Call, m *api.SSOMapping) {
	c.Printf("\nThe connector makes of it:\n")
	printPairs(c, [][2]string{{"Roles", cmp.Or(strings.Join(m.Roles, ", "), "none")}})
	if len(m.Traits) > 0 {
		c.Printf("\n")
		c.Table([]string{"Trait", "Values"}, valueRows(m.Traits))
	}
}

func printPairs(c *cliapp.Call, pairs [][2]string) {
	for _, p := range pairs {
		c.Printf("  %-14s %s\n", p[0]+":", p[1])
	}
}

func valueRows(of map[string][]string) [][]string {
	var rows [][]string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		rows = append(rows, []string{name, strings.Join(of[name], ", ")})
	}
	return rows
}
