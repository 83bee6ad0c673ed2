package api

import "testing"

func TestSameURL(t *testing.T) {
	same := [][2]string{
		{"https://h/p", "https://h:443/p"},
		{"https://h", "https://h/"},
		{"https://H.example.COM/p", "https://h.example.com/p"},
		{"HTTPS://h/p", "https://h/p"},
		{"http://h:80/p", "http://h/p"},
		{"https://[2001:db8::1]/p", "https://[2001:DB8::1]:443/p"},
		{"https://h/p?a=b&c=d", "https://h:443/p?a=b&c=d"},
	}
	for _, p := range same {
		if !SameURL(p[0], p[1]) || !SameURL(p[1], p[0]) {
			t.Errorf("%s and %s differ", p[0], p[1])
		}
	}
	different := [][2]string{
		{"https://h/p", "http://h/p"},
		{"https://h:443/p", "http://h:443/p"},
		{"https://h/p", "https://h:8443/p"},
		{"https://h/p", "https://h.evil/p"},
		{"https://h/p", "https://h/p/"},
		{"https://h/p", "https://h/P"},
		{"https://h/a%2Fb", "https://h/a/b"},
		{"https://h/a/../b", "https://h/b"},
		{"https://h/p", "https://h/p?"},
		{"https://h/p?", "https://h/p??"},
		{"https://h/p", "https://h/p?a=b"},
		{"https://h/p", "https://h./p"},
	}
	for _, p := range different {
		if SameURL(p[0], p[1]) || SameURL(p[1], p[0]) {
			t.Errorf("%s and %s are the same", p[0], p[1])
		}
	}
	// Not even the same as themselves.
	for _, s := range []string{
		"", "/p", "h/p", "//h/p", "https:///p", "https:h/p", "https://u@h/p", "https://h/p#", "https://h/p#x", "https://h\\p", " https://h/p", "https://h/p\n",
		"https://h:x/p", "ftp://h/p", "javascript:alert(1)", "https://h/%zz", "https://:443/p",
	} {
		if SameURL(s, s) {
			t.Errorf("%q names a place", s)
		}
	}
}
