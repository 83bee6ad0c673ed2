package auth

import (
	"context"
	"encoding/json"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// SetLabels gives a cluster the labels that one of its agents says it has.
func (k *KubeClusters) SetLabels(ctx context.Context, agentID, name string, labels map[string]string) error {
	return errSoon()
}

// Flush writes labels that SetLabels held back, because they had been changed a
// moment before.
func (k *KubeClusters) Flush(ctx context.Context) error { return nil }

// SaveStatus keeps what is worth knowing of clusters when no agent is connected.
func (k *KubeClusters) SaveStatus(ctx context.Context, statuses map[string]api.KubeStatus) error {
	return errSoon()
}

// Statuses reads what SaveStatus kept.
func (k *KubeClusters) Statuses() map[string]api.KubeStatus { return nil }

// Document returns a cluster as a document.
func (k *KubeClusters) Document(name string) (json.RawMessage, error) { return nil, errSoon() }

// Documents returns all clusters as documents.
func (k *KubeClusters) Documents() ([]json.RawMessage, error) { return nil, errSoon() }

// Put takes a document that says what is so already.
func (k *KubeClusters) Put(ctx context.Context, by Actor, doc *api.KubeClusterDocument, force bool) (api.PutResponse, error) {
	return api.PutResponse{}, errSoon()
}

// Delete frees a cluster's name.
func (k *KubeClusters) Delete(ctx context.Context, by Actor, name string, force bool) error {
	return errSoon()
}
