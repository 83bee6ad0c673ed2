package wire

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"testing"
)

// tcpPair is two ends of a TCP connection on loopback.
func tcpPair(tb testing.TB) (dialled, accepted net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	if dialled, err = net.Dial("tcp", l.Addr().String()); err != nil {
		tb.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	return dialled, accepted
}

// sessions are two ends of a session, closed with the test.
func sessions(tb testing.TB, o Options) (client, server *Session) {
	tb.Helper()
	c, s := tcpPair(tb)
	client, server = over(tb, c, s, o, o)
	return client, server
}

func over(tb testing.TB, c, s net.Conn, forClient, forServer Options) (client, server *Session) {
	tb.Helper()
	client, err := Client(c, forClient)
	if err != nil {
		tb.Fatal(err)
	}
	server, err = Server(s, forServer)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// echo sends back what comes on every stream.
func echo(s *Session) {
	for {
		st, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer st.Close()
			_, _ = io.Copy(struct{ io.Writer }{st}, struct{ io.Reader }{st})
		}()
	}
}

func TestStreamsCarryBytesBothWaysAndEndEachByItself(t *testing.T) {
	client, server := sessions(t, Options{})
	go echo(server)
	want := make([]byte, 3<<20)
	rand.Read(want)
	st, err := client.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = st.Write(want)
		_ = st.(interface{ CloseWrite() error }).CloseWrite()
	}()
	have, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(have, want) {
		t.Fatalf("%d bytes came back (%v), want %d", len(have), err, len(want))
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	if n := client.Streams(); n != 0 {
		t.Errorf("%d streams are left", n)
	}
}
