// Command release writes what people install to dist: see `release -h`, and
// package e2e/release.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/e2e/release"
)

const usage = `usage: release [FLAGS] image|archives|charts|all

  image     the image in two variants, as OCI archives of all architectures
  archives  binaries for linux, darwin and windows
  charts    the charts as a Helm repository
  all       all of them

Each also writes what it is made of (CycloneDX) and SHA256SUMS over all that is there.

`

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	cancel()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, w io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.SetOutput(w)
	flags.Usage = func() { fmt.Fprint(w, usage); flags.PrintDefaults() }
	out := flags.String("out", "dist", "directory to write to")
	version := flags.String("version", "", "1.2.3 (default: what the sources say)")
	arches := flags.String("arch", "amd64,arm64", "architectures")
	systems := flags.String("os", "linux,darwin,windows", "systems of archives")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return errors.New("name one of image, archives, charts, all: release -h explains them")
	}
	start := time.Now()
	r, err := release.New(ctx, release.Options{
		Out: *out, Version: *version, Arches: strings.Split(*arches, ","), Systems: strings.Split(*systems, ","),
		Log: func(line string) { fmt.Fprintf(w, "[%5.1f s] %s\n", time.Since(start).Seconds(), line) },
	})
	if err != nil {
		return err
	}
	r.Log(fmt.Sprintf("Sallyport %s, %s", r.Version, cmp.Or(r.Revision, "of no commit")))
	switch what := flags.Arg(0); what {
	case "image":
		err = r.Image(ctx)
	case "archives":
		err = r.Archives(ctx)
	case "charts":
		err = r.Charts(ctx)
	case "all":
		return r.All(ctx)
	default:
		return fmt.Errorf("%q is none of image, archives, charts, all", what)
	}
	if err != nil {
		return err
	}
	return r.Sums()
}
