package api_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
)

func TestSizesAreForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1023 << 10: "1023 KiB", 1153434: "1.1 MiB", 642147942: "612.4 MiB", 5 << 30: "5 GiB", 3 << 40: "3 TiB", 3 << 49: "1536 TiB",
	} {
		if got := api.FormatSize(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
