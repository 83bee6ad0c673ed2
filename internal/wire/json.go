package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"

	"github.com/sallyport-dev/sallyport/internal/api"
)

// WriteJSON writes v with one Write: four bytes of length, big-endian, then JSON. The
// limit is what the other end takes, in bytes of JSON.
func WriteJSON(w io.Writer, limit int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(body) > limit {
		return api.Errorf(api.CodeTooLarge, "%d bytes are to be sent, at most %d are allowed", len(body), limit)
	}
	framed := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))) //nolint:gosec // bounded above
	_, err = w.Write(append(framed, body...))
	return err
}

// firstRead is what ReadJSON makes room for on the word of a length alone.
const firstRead = 4 << 10

// ReadJSON reads into v what one WriteJSON wrote, and not a byte more. What is
// allocated grows with what has come: who only announces much costs little. io.EOF is
// the end before the first byte.
func ReadJSON(r io.Reader, limit int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return err // io.EOF, or what the session says
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return fmt.Errorf("read length: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(limit) { //nolint:gosec // limit is ours
		return fmt.Errorf("%d bytes are announced, want 1 to %d", n, limit)
	}
	var body bytes.Buffer
	body.Grow(min(int(n), firstRead) + bytes.MinRead) // room for ReadFrom's last look, too
	switch got, err := body.ReadFrom(io.LimitReader(r, int64(n))); {
	case err != nil:
		return fmt.Errorf("read %d bytes: %w", n, err)
	case got < int64(n):
		return fmt.Errorf("read %d bytes: %w", n, io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}
