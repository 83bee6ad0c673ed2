package guide

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/e2e/page"
)

// pageName is our edition of the guide.
const pageName = "docs/guide.md"

// oneEdition is why what the guide says of a second edition is not in ours.
const oneEdition = "there is one edition; the test installs the release beside the page, without a change to the cluster"

// createDashes is why connectors are made by another line.
const createDashes = "as with users add; the guide's own form is run after it, where people don't see it"

// differences are the lines of the guide that ours has in another form, or not ("").
func differences() map[string]struct{ ours, why string } {
	return map[string]struct{ ours, why string }{
		"helm repo add sallyport CHARTS": {"helm repo add sallyport ${CHARTS_URL?}", "nobody serves the charts but whoever has made them"},
		"helm install sallyport-cluster sallyport-cluster --create-namespace --namespace=sallyport-cluster \\\n  --set clusterName=${CLUSTER_NAME?} --set acme=true --set acmeEmail=${EMAIL?}": {
			"helm install sallyport-cluster sallyport/sallyport-cluster --create-namespace --namespace=sallyport-cluster \\\n  --set clusterName=${CLUSTER_NAME?} --set acme=true --set acmeEmail=${EMAIL?}",
			"a chart of a repository is named after it: the guide's line finds a directory"},
		"kubectl create namespace sallyport-cluster-ent":                                                    {"", oneEdition},
		"kubectl -n sallyport-cluster-ent create secret generic license --from-file=license-enterprise.pem": {"", oneEdition},
		"helm install sallyport-cluster-ent sallyport-cluster --namespace=sallyport-cluster-ent \\\n  --set clusterName=${CLUSTER_NAME?} --set acme=true --set acmeEmail=${EMAIL?} --set enterprise=true": {"", oneEdition},
		"kubectl config set-context --current --namespace=sallyport-cluster-ent":                                {"", oneEdition},
		"MYIP=$(kubectl get services sallyport-cluster-ent -o jsonpath='{.status.loadBalancer.ingress[0].ip}')": {"", oneEdition},
		"POD=$(kubectl get po -l app=sallyport-cluster-ent -o jsonpath='{.items[0].metadata.name}')":            {"", oneEdition},
		"curl -L -O DOWNLOADS/sallyport-ent-v{{ sallyport.version }}-linux-amd64-bin.tar.gz":                    {"", oneEdition},
		"tar -xzf sallyport-ent-v{{ sallyport.version }}-linux-amd64-bin.tar.gz":                                {"", oneEdition},
		"CLUSTER='peanut'": {"", oneEdition},
		"helm install sallyport-agent sallyport-kube-agent --set kubeClusterName={CLUSTER?}\\\n    --set proxyAddr=${PROXY?} --set authToken=${TOKEN?} --create-namespace --namespace=sallyport-agent-ent": {"", oneEdition},
		"curl -L -O DOWNLOADS/sallyport-v{{ sallyport.version }}-linux-amd64-bin.tar.gz":                                                                                                                   {"curl -L -O ${DOWNLOADS_URL?}/sallyport-v${VERSION?}-linux-amd64-bin.tar.gz", "as with the charts"},
		"tar -xzf sallyport-v{{ sallyport.version }}-linux-amd64-bin.tar.gz":                                                                                                                               {"tar -xzf sallyport-v${VERSION?}-linux-amd64-bin.tar.gz", "as with the charts"},
		"kubectl exec -ti ${POD?} tctl -- users add alice --k8s-groups=\"system:masters\"": {
			"kubectl exec -ti ${POD?} -- tctl users add alice --k8s-groups=\"system:masters\"", "kubectl runs only what follows the dashes; the guide's own form is run for bob"},
		"kubectl exec -i ${POD?} tctl -- create -f < github.yaml": {"kubectl exec -i ${POD?} -- tctl create -f < github.yaml", createDashes},
		"kubectl exec -i ${POD?} tctl -- create -f < okta.yaml":   {"kubectl exec -i ${POD?} -- tctl create -f < okta.yaml", createDashes},
		"helm install sallyport-agent sallyport-kube-agent --set kubeClusterName={CLUSTER?}\\\n    --set proxyAddr=${PROXY?} --set authToken=${TOKEN?} --create-namespace --namespace=sallyport-agent": {
			"helm install sallyport-agent sallyport/sallyport-kube-agent --set kubeClusterName=${CLUSTER?} \\\n    --set proxyAddr=${PROXY?} --set authToken=${TOKEN?} --create-namespace --namespace=sallyport-agent",
			"{CLUSTER?} without its $ is a list to helm"},
	}
}

// Each command line of the guide is in ours, in its order, or is a difference that is stated.
func TestPageHasTheLinesOfTheGuide(t *testing.T) {
	p, err := page.Read(pageName)
	if err != nil {
		t.Fatal(err)
	}
	ours := p.Commands()
	b, err := os.ReadFile(filepath.Join("testdata", "lines.txt"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	text = text[strings.Index(text, "\n$ ")+3:]
	left := differences()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n$ ")
	if len(lines) < 45 {
		t.Fatalf("the guide has %d lines?", len(lines))
	}
	for _, line := range lines {
		if d, found := left[line]; found {
			delete(left, line)
			if slices.Contains(ours, line) {
				t.Errorf("no difference: %s", line)
			}
			if line = d.ours; line == "" {
				continue
			}
		}
		if !slices.Contains(ours, line) {
			t.Errorf("not in %s: %s", pageName, line)
		}
	}
	for line, d := range left {
		t.Errorf("not in the guide: %s (%s)", line, d.why)
	}
}
