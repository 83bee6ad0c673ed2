package api_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestLinesAreNamedOnce(t *testing.T) {
	for want, list := range map[string][]api.AuditRange{
		"":                        nil,
		"line 7":                  {{From: 7, To: 7}},
		"the lines 3 to 9":        {{From: 7, To: 9}, {From: 3, To: 5}, {From: 6, To: 6}, {From: 8, To: 8}},
		"the lines 1 and 3 to 4":  {{From: 3, To: 4}, {From: 1, To: 1}},
		"the lines 1, 3 and 5":    {{From: 5, To: 5}, {From: 3, To: 3}, {From: 1, To: 1}, {From: 3, To: 3}},
		"the lines 1001 to 12345": {{From: 1001, To: 12345}},
		"the lines 1, 3, 5, 7, 9 and 2 more parts": {{From: 1, To: 1}, {From: 3, To: 3}, {From: 5, To: 5}, {From: 7, To: 7}, {From: 9, To: 9}, {From: 11, To: 11}, {From: 13, To: 13}},
	} {
		if got := api.FormatLines(list); got != want {
			t.Errorf("%v: %s, want %s", list, got, want)
		}
	}
}
