package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheProgramIsWhatItIsCalled(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{nil, nil},
		{[]string{"tctl"}, []string{"tctl"}},
		{[]string{"/usr/local/bin/tctl", "users", "ls"}, []string{"/usr/local/bin/tctl", "users", "ls"}},
		{[]string{"users"}, []string{"tctl", "users"}},
		{[]string{"/usr/local/bin/users", "add", "alice"}, []string{"tctl", "users", "add", "alice"}},
		{[]string{"create.exe", "-f"}, []string{"tctl", "create", "-f"}},
		{[]string{"get", "users"}, []string{"get", "users"}},
		{[]string{"tctl", "__complete", "us"}, []string{"tctl", "__complete", "us"}},
	} {
		if d := cmp.Diff(c.want, calledAs(c.args)); d != "" {
			t.Errorf("%q: %s", c.args, d)
		}
	}
}
