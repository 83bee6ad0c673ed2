package main

import (
	"context"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/cliapp"
)

func acmeCommand() cliapp.Command {
	return cliapp.Command{
		Name: "acme", Usage: "see to the certificate that an ACME authority issues",
		Commands: []cliapp.Command{{
			Name: "retry", Usage: "order the certificate now, however often that has failed", ArgsUsage: "[NAME]", MaxArgs: 1,
			Description: "For when 'tctl status' says why there is no certificate, that is mended, and you\nwon't wait until the cluster tries again. The replica asked orders and says how\n" +
				"it went. NAME is one of those in 'tctl status', by default the first there.\n\nNothing is ordered for a name that has a valid certificate not due for renewal,\n" +
				"or that doesn't lead to this cluster. What the authority allows stays as it is:\nLet's Encrypt lets five orders fail an hour, and certifies a name five times a\nweek. Elsewhere than on a replica's machine you need the verb update on the kind\ncluster.",
			Examples: []string{"tctl acme retry"},
			Flags:    []cliapp.Flag{formatFlag("text")},
			Complete: completeCertificates,
			Run:      acmeRetry,
		}},
	}
}

func acmeRetry(ctx context.Context, c *cliapp.Call) error {
	name := ""
	if len(c.Args) > 0 {
		name = c.Args[0]
	}
	return withReplica(c, func(r *replica) error {
		done, err := r.RetryACME(ctx, name)
		if err != nil {
			return err
		}
		return show(c, done, func() {
			is := &done.Certificate
			how := certificateState(is, time.Now())[0][1]
			switch done.Outcome {
			case api.ACMERetryIssued:
				c.Printf("A certificate for %s was issued: %s.\n", certifiedNames(is), how)
			case api.ACMERetryOrdering:
				c.Printf("The certificate for %s is still being ordered: 'tctl status' says how it goes.\n", certifiedNames(is))
			default:
				c.Printf("Nothing to order: the certificate for %s is %s.\n", certifiedNames(is), how)
			}
		})
	})
}

// completeCertificates gives the names that certificates are ordered for.
func completeCertificates(*cliapp.Call) []string {
	return candidates(func(ctx context.Context, r *replica) (names []string) {
		s, err := r.Status(ctx)
		if err != nil {
			return nil
		}
		for _, is := range s.Certificates {
			names = append(names, is.Names...)
		}
		slices.Sort(names)
		return names
	})
}
