package proxy

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/moby/spdystream/spdy"
)

const (
	success = `{"kind":"Status","apiVersion":"v1","status":"Success"}`
	seven   = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"command terminated with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}`
	noShell = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"OCI runtime exec failed: \"sh\": not found","reason":"InternalError","code":500}`
)

type outcome struct {
	code, text string
	failed     bool
}

func outcomeOf(w *exitWatch) (o outcome) {
	o.code, o.text, o.failed = w.result()
	return o
}

func wsAnswer() http.Header { return http.Header{"Sec-Websocket-Protocol": {"v5.channel.k8s.io"}} }

func spdyAnswer() http.Header { return http.Header{"X-Stream-Protocol-Version": {"v4.channel.k8s.io"}} }

// wsFrame is a server's frame, of the usual length or of a longer one than needed.
func wsFrame(opcode byte, payload string) string {
	n := len(payload)
	switch {
	case n < 126:
		return string([]byte{opcode, byte(n)}) + payload
	case n < 1<<16:
		return string(binary.BigEndian.AppendUint16([]byte{opcode, 126}, uint16(n))) + payload
	}
	return string(binary.BigEndian.AppendUint64([]byte{opcode, 127}, uint64(n))) + payload
}

func TestExitStatusIsReadFromWebSocket(t *testing.T) {
	const binaryFrame, begun, goesOn, last, ping = 0x82, 0x02, 0x00, 0x80, 0x89
	out := wsFrame(binaryFrame, "\x01"+strings.Repeat("x", 70_000)) + wsFrame(binaryFrame, "\x02"+strings.Repeat("e", 300)) + wsFrame(binaryFrame, "")
	for name, tc := range map[string]struct {
		sent string
		want outcome
	}{
		"success":           {out + wsFrame(binaryFrame, "\x03"+success) + wsFrame(0x88, "\x03\xe8"), outcome{"0", "", false}},
		"exit code":         {out + wsFrame(binaryFrame, "\x03"+seven), outcome{"7", "command terminated with exit code 7", true}},
		"no command":        {wsFrame(binaryFrame, "\x03"+noShell), outcome{"", `OCI runtime exec failed: "sh": not found`, true}},
		"in pieces":         {wsFrame(begun, "\x03"+seven[:10]) + wsFrame(ping, "\x03hello") + wsFrame(goesOn, seven[10:20]) + wsFrame(last, seven[20:]), outcome{"7", "command terminated with exit code 7", true}},
		"none":              {out, outcome{"", "the stream ended before the command did", true}},
		"on stdout":         {wsFrame(binaryFrame, "\x01\x03"+success), outcome{"", "the stream ended before the command did", true}},
		"no Status":         {wsFrame(binaryFrame, "\x03oh dear"), outcome{}},
		"another Status":    {wsFrame(binaryFrame, "\x03"+`{"status":"Perhaps"}`), outcome{}},
		"no number":         {wsFrame(binaryFrame, "\x03"+strings.Replace(seven, `"7"`, `"7\u001b[31m"`, 1)), outcome{"", "command terminated with exit code 7", true}},
		"too long":          {wsFrame(binaryFrame, "\x03"+strings.Repeat("x", maxExitText+1)), outcome{}},
		"compressed":        {wsFrame(0xc2, "\x03"+success), outcome{}},
		"masked":            {string([]byte{binaryFrame, 0x80 | 2, 1, 2, 3, 4, 5, 6}), outcome{}},
		"a length of 2^64":  {wsFrame(binaryFrame, "\x03"+success) + "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xffx", outcome{"0", "", false}},
		"breaks off within": {wsFrame(binaryFrame, "\x03"+success)[:20], outcome{}},
	} {
		t.Run(name, func(t *testing.T) {
			for how, reader := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
				w := newExitWatch("exec", "websocket", wsAnswer())
				got, err := io.ReadAll(w.down(reader(strings.NewReader(tc.sent))))
				if err != nil || string(got) != tc.sent {
					t.Fatalf("%s: %d of %d bytes came through, %v", how, len(got), len(tc.sent), err)
				}
				if o := outcomeOf(w); o != tc.want {
					t.Errorf("%s: %+v, want %+v", how, o, tc.want)
				}
			}
		})
	}
}

// spdyClient writes what client-go sends: a stream of each type, in the order given.
func spdyClient(t testing.TB, types ...string) string {
	t.Helper()
	var b bytes.Buffer
	f, err := spdy.NewFramer(&b, io.MultiReader())
	if err != nil {
		t.Fatal(err)
	}
	for i, typ := range types {
		for _, frame := range []spdy.Frame{
			&spdy.SynStreamFrame{StreamId: spdy.StreamId(2*i + 1), Headers: http.Header{"Streamtype": {typ}, "X-Filler": {strings.Repeat("f", 100*i)}}}, //nolint:gosec // few
			&spdy.PingFrame{Id: 1},
			&spdy.DataFrame{StreamId: spdy.StreamId(2*i + 1), Data: []byte("some input")}, //nolint:gosec // few
		} {
			if err := f.WriteFrame(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.String()
}

func spdyData(id uint32, data string) string {
	b := binary.BigEndian.AppendUint32(nil, id)
	return string(binary.BigEndian.AppendUint32(b, uint32(len(data)))) + data //nolint:gosec // short
}

func TestExitStatusIsReadFromSPDY(t *testing.T) {
	settings := "\x80\x03\x00\x04\x00\x00\x00\x04\x00\x00\x00\x00"
	huge := "\x80\x03\x00\x01\x00\xff\xff\xff"
	for name, tc := range map[string]struct {
		up, down string
		want     outcome
	}{
		"error opened first": {spdyClient(t, "error", "stdin", "stdout"), settings + spdyData(5, "out") + spdyData(1, success), outcome{"0", "", false}},
		"error opened last":  {spdyClient(t, "stdin", "stdout", "error"), spdyData(1, success) + spdyData(3, success) + spdyData(5, seven), outcome{"7", "command terminated with exit code 7", true}},
		"in pieces":          {spdyClient(t, "error"), spdyData(1, seven[:5]) + settings + spdyData(1, "") + spdyData(1, seven[5:]), outcome{"7", "command terminated with exit code 7", true}},
		"none":               {spdyClient(t, "error"), spdyData(3, "out"), outcome{"", "the stream ended before the command did", true}},
		"no error channel":   {spdyClient(t, "stdin"), spdyData(1, success), outcome{}},
		"not SPDY":           {strings.Repeat("GET / HTTP/1.1\r\n", 20), success, outcome{}},
		"a huge frame":       {huge + spdyClient(t, "error"), spdyData(1, success), outcome{}},
		"no fields":          {"\x80\x03\x00\x01\x00\x00\x00\x00" + spdyClient(t, "error"), spdyData(1, success), outcome{}},
	} {
		t.Run(name, func(t *testing.T) {
			for how, reader := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
				w := newExitWatch("exec", "SPDY/3.1", spdyAnswer())
				up, _ := io.ReadAll(w.up(reader(strings.NewReader(tc.up))))
				down, _ := io.ReadAll(w.down(reader(strings.NewReader(tc.down))))
				if string(up) != tc.up || string(down) != tc.down {
					t.Fatalf("%s: %d and %d of %d and %d bytes came through", how, len(up), len(down), len(tc.up), len(tc.down))
				}
				if o := outcomeOf(w); o != tc.want {
					t.Errorf("%s: %+v, want %+v", how, o, tc.want)
				}
			}
		})
	}
}

func TestOtherWaysToTellOfTheEndAreNotFollowed(t *testing.T) {
	extended := wsAnswer()
	extended.Set("Sec-Websocket-Extensions", "permessage-deflate")
	for name, w := range map[string]*exitWatch{
		"attach":     newExitWatch("attach", "websocket", wsAnswer()),
		"extension":  newExitWatch("exec", "websocket", extended),
		"version 1":  newExitWatch("exec", "websocket", http.Header{"Sec-Websocket-Protocol": {"channel.k8s.io"}}),
		"base64":     newExitWatch("exec", "websocket", http.Header{"Sec-Websocket-Protocol": {"v4.base64.channel.k8s.io"}}),
		"SPDY, none": newExitWatch("exec", "SPDY/3.1", http.Header{}),
	} {
		if w != nil || outcomeOf(w) != (outcome{}) {
			t.Errorf("%s: followed", name)
		}
	}
}

// FuzzExitWatch: whatever both sides say, their bytes pass unchanged, and what is
// kept of them is bounded.
func FuzzExitWatch(f *testing.F) {
	f.Add([]byte(spdyClient(f, "error", "stdin")), []byte(spdyData(1, seven)), true)
	f.Add([]byte(spdyClient(f, "stdin", "error")), []byte(spdyData(3, success)), true)
	f.Add([]byte{}, []byte(wsFrame(0x82, "\x03"+seven)), false)
	bomb, _ := hex.DecodeString("800300010000000a00000001000000000000")
	f.Add(bomb, []byte(wsFrame(0x02, "\x03a")+wsFrame(0x80, "b")), true)
	f.Fuzz(func(t *testing.T, up, down []byte, overSPDY bool) {
		w := newExitWatch("exec", "websocket", wsAnswer())
		if overSPDY {
			w = newExitWatch("exec", "SPDY/3.1", spdyAnswer())
		}
		gotUp, _ := io.ReadAll(w.up(bytes.NewReader(up)))
		gotDown, _ := io.ReadAll(w.down(bytes.NewReader(down)))
		if !bytes.Equal(gotUp, up) || !bytes.Equal(gotDown, down) {
			t.Fatal("bytes changed on their way")
		}
		code, _, failed := w.result()
		if len(w.text) > maxExitText || len(code) > 20 || code == "0" && failed && !bytes.Contains(down, []byte("ExitCode")) {
			t.Fatalf("%d bytes kept, code %q, failed %v", len(w.text), code, failed)
		}
		if w.spdy != nil && len(w.spdy.frame) > maxSPDYHead+spdyHeadSize {
			t.Fatalf("%d bytes of a frame are kept", len(w.spdy.frame))
		}
	})
}
