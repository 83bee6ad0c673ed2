package forward

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// webhook posts a batch as a JSON array of the lines as they are, so that a receiver
// can check the chain, signed as Standard Webhooks (1.0.0) say.
type webhook struct {
	name string
	key  *webhooks.Webhook // nil: not signed
}

func newWebhook(doc api.AuditForwarder) (*webhook, error) {
	w := &webhook{name: doc.Metadata.Name}
	if doc.Spec.SigningSecret == "" {
		return w, nil
	}
	var err error
	if w.key, err = webhooks.NewWebhook(doc.Spec.SigningSecret); err != nil {
		return nil, errors.New("spec.signing_secret is not as Standard Webhooks have it") // the cause quotes it
	}
	return w, nil
}

func (w *webhook) request(batch []event, now time.Time) (*request, error) {
	size := 2
	for _, ev := range batch {
		size += len(ev.text) + 1
	}
	body := make([]byte, 0, size)
	for i, ev := range batch {
		sep := byte(',')
		if i == 0 {
			sep = '['
		}
		body = append(append(body, sep), ev.text...)
	}
	body = append(body, ']')
	// The same for the same batch, and no other's: of another cluster, say, whose
	// forwarder has the same name.
	sum := sha256.Sum256(body)
	id := fmt.Sprintf("%s_%d-%d_%s", w.name, batch[0].number, batch[len(batch)-1].number, hex.EncodeToString(sum[:8]))
	header := http.Header{
		"Content-Type": {"application/json"}, "Webhook-Id": {id}, "Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)},
	}
	if w.key != nil {
		signature, err := w.key.Sign(id, now, body)
		if err != nil {
			return nil, errors.New("the batch could not be signed")
		}
		header["Webhook-Signature"] = []string{signature}
	}
	return &request{body: body, header: header}, nil
}

// answer: a webhook's says nothing.
func (w *webhook) answer([]byte) answer { return answer{} }
