package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"os"
	"slices"

	"k8s.io/client-go/rest"

	"github.com/sallyport-dev/sallyport/internal/wire"
)

// clusterCAs are the certificates by which the API server is verified, as
// wire.Cluster has them. A cluster's bundle holds one, or a few while they are being
// replaced; one with more says nothing about a cluster.
func clusterCAs(cfg *rest.Config) []string {
	bundle := cfg.CAData
	if cfg.Insecure {
		return nil
	}
	if len(bundle) == 0 && cfg.CAFile != "" {
		bundle, _ = os.ReadFile(cfg.CAFile) // the transport has read it, too: it says what is wrong
	}
	var sums []string
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			sum := sha256.Sum256(block.Bytes)
			sums = append(sums, hex.EncodeToString(sum[:]))
		}
	}
	slices.Sort(sums)
	if sums = slices.Compact(sums); len(sums) > wire.MaxClusterCAs {
		return nil
	}
	return sums
}
