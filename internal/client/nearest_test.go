package client

import "testing"

func TestTheNearestNameMayDifferInCase(t *testing.T) {
	names := []string{"cookie", "Milk", "milk-2", "PROD_EU"}
	for word, want := range map[string]string{
		"cooki": "cookie", "COOKIE": "cookie", "COOKI": "cookie", "milk": "Milk", "MILK": "Milk", "prod_eu": "PROD_EU", "prod-eu": "PROD_EU", "x": "", "": "", "unlike": "",
	} {
		if got := Nearest(word, names); got != want {
			t.Errorf("%q is near %q, want %q", word, got, want)
		}
	}
}
