package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"

	"github.com/sallyport-dev/sallyport/internal/api"
)

const protobufType = "application/vnd.kubernetes.protobuf"

// eventsOf decodes a watch's answer as client-go does.
func eventsOf(t *testing.T, kind string, body []byte) (last watch.EventType, status *metav1.Status, err error) {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	codecs := serializer.NewCodecFactory(scheme)
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), kind)
	if !ok {
		t.Fatalf("no serializer for %s", kind)
	}
	frames := info.StreamSerializer.NewFrameReader(io.NopCloser(bytes.NewReader(body)))
	d := restwatch.NewDecoder(streaming.NewDecoder(frames, info.StreamSerializer.Serializer), codecs.UniversalDeserializer())
	for {
		typ, object, err := d.Decode()
		if err != nil {
			return last, status, err
		}
		last, status = typ, nil
		if st, ok := object.(*metav1.Status); ok {
			status = st
		}
	}
}

// A watch that is cut says why, in an event, so that kubectl does.
func TestACutWatchEndsWithAStatus(t *testing.T) {
	proto, err := errorEvent(newStatus(http.StatusGone, metav1.StatusReasonExpired, "an event of the API server's"), true)
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]struct {
		act  func(f *fixture)
		code int32
		says string
	}{
		"session ended": {
			func(f *fixture) { f.auth.forbid(api.Errorf(api.CodeUnauthenticated, "the session of alice was ended")) },
			http.StatusUnauthorized, "the session of alice was ended; log in again: tsh login --proxy=sally.example:443",
		},
		"right lost": {
			func(f *fixture) { f.auth.forbid(api.Errorf(api.CodeForbidden, "your role is gone")) }, http.StatusForbidden, "your role is gone",
		},
		"replica stale": {
			func(f *fixture) { err := errors.New("no leader for 15m0s"); f.stale.Store(&err) },
			http.StatusServiceUnavailable, "this replica can't decide who may do what (see --max-stale): no leader for 15m0s",
		},
	}
	kinds := []struct{ name, contentType, sent string }{
		{"JSON", "application/json", `{"type":"BOOKMARK","object":{"kind":"Status","apiVersion":"v1"}}` + "\n"},
		{"nothing sent yet", "application/json", ""},
		{"JSON with parameters", "application/json;stream=watch", ""},
		{"protobuf", protobufType + ";stream=watch", string(proto)},
		{"protobuf, nothing sent yet", protobufType + ";stream=watch", ""},
	}
	for name, end := range ends {
		for _, kind := range kinds {
			for _, major := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s/%s/HTTP %d", name, kind.name, major), func(t *testing.T) {
					t.Parallel()
					f := newFixture(t, watchServer(kind.contentType, kind.sent))
					res := f.startWatch(t, major, "/api/v1/pods?watch=true")
					head := make([]byte, len(kind.sent))
					if _, err := io.ReadFull(res.Body, head); err != nil {
						t.Fatal(err)
					}
					end.act(f)
					rest, err := io.ReadAll(res.Body)
					if err != nil {
						t.Errorf("the watch does not end cleanly: %v", err)
					}
					media := "application/json"
					if kind.contentType[12] == 'v' {
						media = protobufType
					}
					last, status, err := eventsOf(t, media, slices.Concat(head, rest))
					if !errors.Is(err, io.EOF) || last != watch.Error || status == nil {
						t.Fatalf("last event %q, %+v, then %v; of %q", last, status, err, rest)
					}
					if status.Code != end.code || status.Message != end.says {
						t.Errorf("%d %q, want %d %q", status.Code, status.Message, end.code, end.says)
					}
				})
			}
		}
	}
}

// In the midst of an event, or in what is no stream of events, there is no place
// for another: the client must see that the answer is torn.
func TestACutWatchIsTornWhereNoEventFits(t *testing.T) {
	for name, tt := range map[string]struct{ contentType, sent, query string }{
		"half an event":         {"application/json", `{"type":"ADDED"`, ""},
		"indented":              {"application/json", "{\n", "&pretty=1"},
		"another type":          {"text/plain", "hello\n", ""},
		"a type unknown here":   {"application/cbor-seq", "x", ""},
		"half a frame's length": {protobufType, "\x00\x00", ""},
		"half a frame":          {protobufType, "\x00\x00\x00\x05abcd", ""},
	} {
		for _, major := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/HTTP %d", name, major), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, watchServer(tt.contentType, tt.sent))
				res := f.startWatch(t, major, "/api/v1/pods?watch=true"+tt.query)
				head := make([]byte, len(tt.sent))
				if _, err := io.ReadFull(res.Body, head); err != nil {
					t.Fatal(err)
				}
				f.auth.forbid(api.Errorf(api.CodeUnauthenticated, "ended"))
				if rest, err := io.ReadAll(res.Body); err == nil || len(rest) > 0 {
					t.Errorf("%q, %v; want a torn answer", rest, err)
				}
			})
		}
	}
}

// However the bytes of a watch are cut into pieces, the writer knows where an
// event ends.
func FuzzWatchWriterFindsTheEnd(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02ab\x00\x00\x00\x00\x00\x00\x00\x01"), uint8(3))
	f.Add([]byte("\xff\xff\xff\xffabc"), uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8) {
		w := &watchWriter{Writer: io.Discard, protobuf: true}
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		whole := &watchWriter{Writer: io.Discard, protobuf: true}
		_, _ = whole.Write(stream)
		if w.got != whole.got || w.left != whole.left {
			t.Errorf("in pieces %d+%d, whole %d+%d", w.got, w.left, whole.got, whole.left)
		}
	})
}

// watchServer answers a watch with what is given, and then keeps silent.
func watchServer(contentType, sent string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, sent)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func (f *fixture) startWatch(t *testing.T, major int, path string) *http.Response {
	t.Helper()
	if major == 1 {
		c := dialRaw(t, f.front)
		c.send("GET "+path+" HTTP/1.1", "Host: x", "")
		return c.answer()
	}
	res, err := f.front.Client().Do(newRequest(t, http.MethodGet, f.front.URL+path, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	if res.ProtoMajor != 2 {
		t.Fatalf("not HTTP/2: %s", res.Proto)
	}
	return res
}

func TestErrorEventsAreOneLine(t *testing.T) {
	line, err := errorEvent(newStatus(http.StatusForbidden, metav1.StatusReasonForbidden, "two\nlines"), false)
	if err != nil || bytes.IndexByte(line, '\n') != len(line)-1 || !json.Valid(line) {
		t.Errorf("%q, %v", line, err)
	}
}
