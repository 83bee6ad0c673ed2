package client_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/client"
)

func TestSocketsAreNeverLookedForRelativeToTheCurrentDirectory(t *testing.T) {
	const system = "/var/lib/sallyport/admin.sock"
	for _, test := range []struct {
		name, home, dataHome string
		want                 []string
	}{
		{"a user", "/home/ann", "", []string{system, "/home/ann/.local/share/sallyport/admin.sock"}},
		{"a data directory elsewhere", "/home/ann", "/data", []string{system, "/data/sallyport/admin.sock"}},
		{"a relative one, which is ignored", "/home/ann", "data", []string{system, "/home/ann/.local/share/sallyport/admin.sock"}},
		{"no home", "", "", []string{system}},
		{"no home, a relative data directory", "", "data", []string{system}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := client.Sockets(func(string) string { return test.dataHome }, test.home)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
