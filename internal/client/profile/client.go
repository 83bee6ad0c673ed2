package profile

import (
	"github.com/sallyport-dev/sallyport/internal/client"
)

// APIClient calls the cluster as the user of the login. agent is the
// User-Agent. Whether the login is still good is for Valid and the server to say.
func APIClient(p *Profile, agent string) (*client.Client, error) {
	return client.NewAPI(p.Proxy, client.APIOptions{
		ClusterName: p.ClusterName, CertPEM: []byte(p.Cert), KeyPEM: []byte(p.Key), HostCAs: []byte(p.HostCAs), Agent: agent,
	})
}
