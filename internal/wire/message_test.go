package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport-dev/sallyport/internal/api"
)

var messages = []Message{
	{Hello: &Hello{Version: "1.2.3", Name: "pod", Clusters: []Cluster{{Name: "cookie", Labels: map[string]string{"env": "prod"}, Checked: time.Unix(1, 0).UTC()}}}},
	{Welcome: &Welcome{ServerID: "a", Members: []string{"a", "b"}, Generation: 3}},
	{Refused: &Refused{Code: api.CodeUnavailable, Message: "come again", RetryAfter: time.Second}},
	{Status: &Status{Clusters: []Cluster{}}},
	{Renew: &Renew{PublicKey: []byte{1, 2}}},
	{Renewed: &Renewed{Cert: []byte("PEM"), Generation: 4, Expires: time.Unix(2, 0).UTC()}},
	{Members: &Members{Members: []string{"b"}}},
	{Move: &Move{Within: time.Minute}},
}

func TestMessagesAreReadAsTheyWereWritten(t *testing.T) {
	var b bytes.Buffer
	for _, m := range messages {
		if err := WriteMessage(&b, m); err != nil {
			t.Fatal(err)
		}
	}
	r := iotest.OneByteReader(&b)
	for _, want := range messages {
		have, err := ReadMessage(r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("-want +have:\n%s", d)
		}
	}
	if _, err := ReadMessage(r); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func framed(body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func TestAMessageOfAnUnknownKindIsPassedOver(t *testing.T) {
	r := io.MultiReader(bytes.NewReader(framed(`{"of_a_later_version":{"x":[1,2]}}`)), bytes.NewReader(framed(`{"move":{}}`)))
	m, err := ReadMessage(r)
	if err != nil || m != (Message{}) {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = ReadMessage(r); err != nil || m.Move == nil {
		t.Errorf("the next one: %+v, %v", m, err)
	}
}

func TestMessagesThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		sent []byte
		says string
	}{
		"too large":     {binary.BigEndian.AppendUint32(nil, MaxMessage+1), "want 1 to"},
		"huge":          {[]byte{0xff, 0xff, 0xff, 0xff}, "want 1 to"},
		"empty":         {framed(""), "want 1 to"},
		"not JSON":      {framed("GET /"), "decode"},
		"cut in length": {[]byte{0, 0}, "unexpected EOF"},
		"cut in body":   {framed("{}")[:5], "unexpected EOF"},
		"wrong types":   {framed(`{"hello":{"clusters":{}}}`), "decode"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ReadMessage(bytes.NewReader(c.sent))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%+v, %v; want %q", m, err, c.says)
			}
		})
	}
	if err := WriteMessage(io.Discard, Message{Hello: &Hello{Name: strings.Repeat("x", MaxMessage)}}); !api.IsCode(err, api.CodeTooLarge) {
		t.Errorf("written: %v", err)
	}
}

// A length is no reason to allocate: the body is what has come.
func TestALengthAloneAllocatesNoMoreThanAMessage(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, 1<<31)
	if n := testing.AllocsPerRun(100, func() { _, _ = ReadMessage(bytes.NewReader(head)) }); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzReadMessage(f *testing.F) {
	for _, m := range messages {
		var b bytes.Buffer
		if err := WriteMessage(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:b.Len()/2])
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add(framed(`{"later":1}`))
	f.Add(framed(`{"hello":null,"move":{"within":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		m, err := ReadMessage(r)
		if err != nil {
			if m != (Message{}) {
				t.Errorf("%+v beside an error", m)
			}
			return
		}
		if read, want := len(b)-r.Len(), 4+int(binary.BigEndian.Uint32(b)); read != want {
			t.Errorf("%d bytes were read, the message has %d", read, want)
		}
		first, err := json.Marshal(m)
		if err != nil {
			return // a time that JSON has no form for
		}
		var again bytes.Buffer
		if err := WriteMessage(&again, m); err != nil {
			return // it grew beyond MaxMessage by escaping
		}
		m2, err := ReadMessage(&again)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := json.Marshal(m2); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%s became %s (%v)", first, second, err)
		}
	})
}

// A length is a promise: whoever has 1,000 sessions announce 256 KiB each and sends
// nothing must not make a replica hold 256 MiB.
func TestReadMessage_allocatesAsBytesCome(t *testing.T) {
	var frame bytes.Buffer
	if err := WriteMessage(&frame, Message{Hello: &Hello{Name: strings.Repeat("x", 200<<10)}}); err != nil {
		t.Fatal(err)
	}
	r := &meter{r: bytes.NewReader(frame.Bytes())}
	if m, err := ReadMessage(r); err != nil || len(m.Hello.Name) != 200<<10 {
		t.Fatal(err)
	}
	if r.excess > 8<<10 {
		t.Errorf("room was made for %d bytes more than had come twice", r.excess)
	}
	if _, err := ReadMessage(bytes.NewReader(frame.Bytes()[:100<<10])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a message: %v", err)
	}
}

// meter notes for how much more than it has given room was made.
type meter struct {
	r           io.Reader
	got, excess int
}

func (m *meter) Read(p []byte) (int, error) {
	m.excess = max(m.excess, len(p)-2*m.got)
	n, err := m.r.Read(p)
	m.got += n
	return n, err
}
