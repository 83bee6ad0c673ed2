package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/moby/spdystream/spdy"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// How a command ended travels as a Status over the error channel of its stream
// (subprotocols v4 and v5.channel.k8s.io). It is read there in passing: bytes go on
// as they came and when they came, whatever is made of them here, and what can't be
// followed is not followed any more.

const (
	// wsErrorChannel is k8s.io/apimachinery's remotecommand.StreamErr: the first byte
	// of a WebSocket message names its channel.
	wsErrorChannel = 3

	maxExitText   = 16 << 10 // of a Status
	maxSPDYHead   = 16 << 10 // of a frame with header fields, and of one of those
	maxSPDYFields = 64
)

// exitWatch follows a stream of exec. Its two directions are read by two goroutines.
type exitWatch struct {
	spdy   *spdyOpenings // nil: WebSocket
	stream atomic.Uint32 // SPDY: the error channel's id; 0: not yet known

	head [14]byte // of the server's frame, as far as it has come
	have int
	left uint64 // of its payload
	of   frameOf
	last frameOf // WebSocket: what a continued message is
	text []byte
	lost bool // the server's bytes can't be followed
}

// frameOf says what becomes of a payload.
type frameOf int

const (
	ofOthers  frameOf = iota // is passed over
	ofUnknown                // the first byte will tell
	ofExit                   // is kept
)

// newExitWatch is nil where the way of telling is another one, or there is no
// command.
func newExitWatch(kind, upgrade string, answer http.Header) *exitWatch {
	if kind != kindExec {
		return nil
	}
	proto := answer.Get("X-Stream-Protocol-Version")
	if upgrade == "websocket" {
		proto = answer.Get("Sec-Websocket-Protocol")
	}
	if proto != "v4.channel.k8s.io" && proto != "v5.channel.k8s.io" || answer.Get("Sec-Websocket-Extensions") != "" {
		return nil
	}
	w := &exitWatch{}
	if upgrade != "websocket" {
		w.spdy = newSPDYOpenings()
	}
	return w
}

// result is the exit code, "" if it is not known, and what the cluster says of a
// command that failed.
func (w *exitWatch) result() (code, text string, failed bool) {
	if w == nil || w.lost || w.spdy != nil && w.stream.Load() == 0 {
		return "", "", false
	}
	if len(w.text) == 0 {
		return "", "the stream ended before the command did", true
	}
	var st metav1.Status
	if json.Unmarshal(w.text, &st) != nil || st.Status != metav1.StatusSuccess && st.Status != metav1.StatusFailure {
		return "", "", false
	}
	if st.Status == metav1.StatusSuccess {
		return "0", "", false
	}
	if st.Details != nil && st.Reason == "NonZeroExitCode" {
		for _, c := range st.Details.Causes {
			if c.Type != "ExitCode" {
				continue
			}
			if n, err := strconv.Atoi(c.Message); err == nil {
				code = strconv.Itoa(n)
			}
		}
	}
	return code, st.Message, true
}

// up looks at what the client sends.
func (w *exitWatch) up(r io.Reader) io.Reader {
	if w.spdy == nil {
		return r
	}
	return &passing{r, w.opened}
}

// down looks at what the server sends.
func (w *exitWatch) down(r io.Reader) io.Reader { return &passing{r, w.answered} }

// passing shows each piece before it is handed on.
type passing struct {
	io.Reader
	look func([]byte)
}

func (p *passing) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if n > 0 {
		p.look(b[:n])
	}
	return n, err
}

func (w *exitWatch) opened(p []byte) {
	if w.stream.Load() != 0 || w.spdy.over {
		return
	}
	if id := w.spdy.look(p); id != 0 {
		w.stream.Store(id)
		w.spdy.close()
	}
}

// answered takes the server's frames apart.
func (w *exitWatch) answered(p []byte) {
	for len(p) > 0 && !w.lost {
		if w.left > 0 {
			n := int(min(uint64(len(p)), w.left)) //nolint:gosec // at most len(p)
			w.payload(p[:n])
			w.left -= uint64(n)
			p = p[n:]
			continue
		}
		w.head[w.have] = p[0]
		w.have++
		p = p[1:]
		if w.spdy != nil {
			w.spdyHead()
		} else {
			w.wsHead()
		}
	}
}

func (w *exitWatch) payload(p []byte) {
	if w.of == ofUnknown {
		w.of = ofOthers
		if p[0] == wsErrorChannel {
			w.of = ofExit
		}
		w.last = w.of
		p = p[1:]
	}
	if w.of != ofExit {
		return
	}
	if w.text = append(w.text, p...); len(w.text) > maxExitText {
		w.text, w.lost = nil, true
	}
}

// wsHead is RFC 6455 §5.2. A server's frames are not masked.
func (w *exitWatch) wsHead() {
	if w.have < 2 {
		return
	}
	need := 2
	switch w.head[1] & 0x7f {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	if w.have < need {
		return
	}
	w.have = 0
	if w.head[0]&0x70 != 0 || w.head[1]&0x80 != 0 { // an extension's, or masked: nothing of ours
		w.lost = true
		return
	}
	switch need {
	case 2:
		w.left = uint64(w.head[1] & 0x7f)
	case 4:
		w.left = uint64(binary.BigEndian.Uint16(w.head[2:]))
	default:
		w.left = binary.BigEndian.Uint64(w.head[2:])
	}
	switch w.head[0] & 0x0f {
	case 0: // goes on with the message before; control frames may come between
		w.of = w.last
	case 1, 2:
		w.of, w.last = ofUnknown, ofUnknown
	default:
		w.of = ofOthers
	}
}

// spdyHead is SPDY/3.1 §2.2.
func (w *exitWatch) spdyHead() {
	if w.have < spdyHeadSize {
		return
	}
	w.have = 0
	first := binary.BigEndian.Uint32(w.head[:])
	w.left = uint64(binary.BigEndian.Uint32(w.head[4:]) & 0xffffff)
	w.of = ofOthers
	if id := w.stream.Load(); id != 0 && first == id { // a control frame has the highest bit
		w.of = ofExit
	}
}

const spdyHeadSize = 8

// spdyOpenings finds the stream that a client opens as error channel. Header fields
// are compressed over all frames together, so all of the client's are read until then.
type spdyOpenings struct {
	framer *spdy.Framer
	in     bytes.Buffer // what framer reads: whole frames alone
	frame  []byte       // that is being gathered
	left   int          // of the frame
	keep   bool         // it has header fields
	over   bool
}

func newSPDYOpenings() *spdyOpenings { return &spdyOpenings{} }

// close forgets all: what was sought was found, or can't be.
func (o *spdyOpenings) close() { *o = spdyOpenings{over: true} }

// look gives the error channel's id once it is known.
func (o *spdyOpenings) look(p []byte) uint32 {
	for len(p) > 0 {
		if o.left > 0 {
			n := min(len(p), o.left)
			if o.keep {
				o.frame = append(o.frame, p[:n]...)
			}
			p = p[n:]
			if o.left -= n; o.left > 0 {
				continue
			}
		} else {
			o.frame = append(o.frame, p[0])
			p = p[1:]
			if len(o.frame) < spdyHeadSize || !o.begun() {
				continue
			}
		}
		if o.over {
			return 0
		}
		if o.keep {
			if id := o.read(); id != 0 || o.over {
				return id
			}
		}
		o.frame = o.frame[:0]
	}
	return 0
}

// begun looks at a frame's head. True: that is all of it, or nobody wants it.
func (o *spdyOpenings) begun() bool {
	o.left = int(binary.BigEndian.Uint32(o.frame[4:]) & 0xffffff)
	o.keep = false
	if o.frame[0]&0x80 != 0 {
		kind := spdy.ControlFrameType(binary.BigEndian.Uint16(o.frame[2:]))
		o.keep = kind == spdy.TypeSynStream || kind == spdy.TypeSynReply || kind == spdy.TypeHeaders
	}
	if o.keep && o.left > maxSPDYHead {
		o.close()
		return true
	}
	if !o.keep {
		o.frame = o.frame[:0]
	}
	return o.left == 0
}

func (o *spdyOpenings) read() uint32 {
	if o.framer == nil {
		var err error
		if o.framer, err = spdy.NewFramerWithOptions(io.Discard, &o.in,
			spdy.WithMaxHeaderFieldSize(maxSPDYHead), spdy.WithMaxHeaderCount(maxSPDYFields)); err != nil {
			o.close()
			return 0
		}
	}
	o.in.Reset()
	o.in.Write(o.frame)
	f, err := o.framer.ReadFrame()
	if err != nil {
		o.close() // and so the fields of later frames can't be read
		return 0
	}
	if syn, ok := f.(*spdy.SynStreamFrame); ok && strings.EqualFold(syn.Headers.Get("streamType"), "error") {
		return uint32(syn.StreamId)
	}
	return 0
}
