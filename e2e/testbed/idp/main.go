// Command idp runs identity providers for whoever wants to look at one, until Ctrl-C:
//
//	go run ./testbed/idp [-port=5556] [-redirect=URL] [-acs=URL] dex|oidc-provider|simplesamlphp
//
// What it runs is what tests run (testbed.StartDex and its like).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport-dev/sallyport/e2e/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "idp:", err)
		os.Exit(1) //nolint:forbidigo // main
	}
}

func run(ctx context.Context, args []string, out, progress io.Writer) error {
	flags := flag.NewFlagSet("idp", flag.ContinueOnError)
	port := flags.Int("port", 0, "to listen at on loopback; 0: a free one")
	redirect := flags.String("redirect", "https://localhost:3080/v1/webapi/oidc/callback", "the callback of an OpenID Connect client")
	acs := flags.String("acs", "https://localhost:3080/v1/webapi/saml/acs", "the assertion consumer service and entity id of a SAML service provider")
	if err := flags.Parse(args); err != nil {
		return err
	}
	kind := testbed.IDPKind(flags.Arg(0))
	parts := map[testbed.IDPKind]string{
		testbed.DexIDP: testbed.Dex, testbed.OIDCProviderIDP: testbed.OIDCProvider, testbed.SimpleSAMLphpIDP: testbed.TestPackages,
	}
	if parts[kind] == "" {
		return fmt.Errorf("%q is no identity provider: dex, oidc-provider or simplesamlphp", kind)
	}
	if err := testbed.Build(ctx, progress, parts[kind]); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "idp-ca-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca, err := testbed.NewAuthority(dir)
	if err != nil {
		return err
	}
	p, err := testbed.OpenIDP(ctx, kind, testbed.IDPOptions{
		Authority: ca, Port: *port, Redirects: []string{*redirect}, SP: testbed.ServiceProvider{EntityID: *acs, ACS: *acs},
	})
	if err != nil {
		return err
	}
	defer p.Close()
	fmt.Fprintf(out, "%s: issuer %s\nSSL_CERT_FILE=%s makes Go programs trust it\n", kind, p.Issuer, ca.File)
	if p.Metadata != "" {
		fmt.Fprintf(out, "metadata %s\n", p.Metadata)
	} else {
		fmt.Fprintf(out, "client %s, secret %s\n", p.ClientID, p.ClientSecret)
	}
	fmt.Fprintln(out, "alice@example.com and bob@example.com (alice and bob), password \"password\"; Ctrl-C ends it")
	<-ctx.Done()
	return nil
}
