package proxy

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// A watch that is cut ends with an event of type ERROR that holds our Status, as
// the API server's own ends when its history is gone. Without it `kubectl get -w`
// says "stream error" of what was a removed session. (A watch that is drained gets
// none: after an ERROR informers list everything anew, after a clean end they go
// on from where they were, at another replica.)

// watchWriter passes a watch's answer on and knows whether the last event in it
// is complete.
type watchWriter struct {
	io.Writer
	protobuf bool

	begun bool // JSON: the last byte is within an event
	head  [4]byte
	got   int    // bytes of head
	left  uint32 // of the frame's body
}

// newWatchWriter is nil for an answer to which no event can be added: one that
// is no stream of events, or of a kind unknown here. Indented events have line
// ends within.
func newWatchWriter(w io.Writer, res *http.Response, query string) *watchWriter {
	if res.StatusCode != http.StatusOK || res.ContentLength >= 0 || res.Header.Get("Content-Encoding") != "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case err != nil:
		return nil
	case kind == "application/json" && !queryTrue(query, "pretty"):
		return &watchWriter{Writer: w}
	case kind == "application/vnd.kubernetes.protobuf":
		return &watchWriter{Writer: w, protobuf: true}
	}
	return nil
}

// Write implements io.Writer.
func (w *watchWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if w.protobuf {
		w.frames(p[:n])
	} else if n > 0 {
		w.begun = p[n-1] != '\n'
	}
	return n, err
}

// frames follows k8s.io/apimachinery's length-delimited framer: four bytes of
// length, big endian, then as many of the event.
func (w *watchWriter) frames(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(uint64(len(p)), uint64(w.left))
			w.left -= uint32(n) //nolint:gosec // at most left
			p = p[n:]
			continue
		}
		n := copy(w.head[w.got:], p)
		w.got += n
		p = p[n:]
		if w.got == len(w.head) {
			w.left, w.got = binary.BigEndian.Uint32(w.head[:]), 0
		}
	}
}

// lastWord adds an event that says why this is the end, and reports whether the
// client got it.
func (w *watchWriter) lastWord(why error) bool {
	if w == nil || w.begun || w.got > 0 || w.left > 0 {
		return false
	}
	code, reason, message := statusOf(why)
	event, err := errorEvent(newStatus(code, reason, message), w.protobuf)
	if err != nil {
		return false
	}
	_, err = w.Writer.Write(event)
	return err == nil
}

// errorEvent is a watch event as it goes over the wire.
func errorEvent(status *metav1.Status, protobuf bool) ([]byte, error) {
	event := metav1.WatchEvent{Type: string(watch.Error)}
	var err error
	if !protobuf {
		if event.Object.Raw, err = json.Marshal(status); err != nil {
			return nil, err
		}
		line, err := json.Marshal(event)
		return append(line, '\n'), err
	}
	body, err := status.Marshal()
	if err != nil {
		return nil, err
	}
	object := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: status.APIVersion, Kind: status.Kind}, Raw: body}
	if body, err = object.Marshal(); err != nil {
		return nil, err
	}
	event.Object.Raw = append([]byte("k8s\x00"), body...)
	if body, err = event.Marshal(); err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...), nil //nolint:gosec // a short text's
}
