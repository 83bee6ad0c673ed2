package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A frame is a header of eight bytes and a payload:
//
//	byte 0    kind
//	byte 1    flags
//	bytes 2-3 length of the payload, big-endian, at most maxFrame
//	bytes 4-7 stream, big-endian; 0 for pings
//
// The end that dialled numbers its streams 1, 3, 5…, the other 2, 4, 6…, in the
// order in which their first frames are sent. There is no version: ALPN has it.
const (
	headerSize = 8
	maxFrame   = 16<<10 - headerSize // with its header no more than a TLS record holds
)

type kind uint8

const (
	kindData   kind = 1 + iota // payload: what was written; flagOpen with a stream's first frame, flagFin with its last
	kindWindow                 // payload: four bytes, how much more may be sent on the stream
	kindStop                   // who sends it reads no more of the stream; what still comes is thrown away
	kindReset                  // the stream is over, both ways; flags say why
	kindPing                   // payload: eight bytes, to be sent back as kindPong
	kindPong
)

const (
	flagOpen uint8 = 1 << iota
	flagFin
)

// Why a stream was reset.
const (
	resetRefused uint8 = 1 + iota // too many streams are open
	resetMemory                   // too much waits to be read
	resetAborted                  // who sends it gave the stream up
)

// What a stream may end with beside the session's own error, net.ErrClosed
// and os.ErrDeadlineExceeded.
var (
	// ErrStopped is why a write fails: the other end has closed the stream.
	ErrStopped = errors.New("the other end of the stream has closed it")
	// ErrFull is that this end has as many streams open as it may.
	ErrFull = errors.New("too many streams are open")
	// ErrRefused is that the other end has as many streams open as it allows.
	ErrRefused = errors.New("the other end has too many streams open")
	// ErrMemory is that more waited to be read on this session than its budget
	// has room for, and most of it on this stream.
	ErrMemory = errors.New("too much waits to be read on this stream")
)

type header [headerSize]byte

func (h *header) kind() kind     { return kind(h[0]) }
func (h *header) flags() uint8   { return h[1] }
func (h *header) length() int    { return int(binary.BigEndian.Uint16(h[2:])) }
func (h *header) stream() uint32 { return binary.BigEndian.Uint32(h[4:]) }

// check is all that can be said of a frame without knowing the streams.
func (h *header) check() error {
	want := 0 // payload
	switch h.kind() {
	case kindData:
		if h.length() > maxFrame {
			return fmt.Errorf("a frame of %d bytes, at most %d", h.length(), maxFrame)
		}
		want = h.length()
	case kindWindow:
		want = 4
	case kindPing, kindPong:
		if h.stream() != 0 {
			return fmt.Errorf("a ping on stream %d", h.stream())
		}
		want = 8
	case kindStop, kindReset:
	default:
		return fmt.Errorf("a frame of unknown kind %d", h.kind())
	}
	if h.length() != want {
		return fmt.Errorf("a frame of kind %d with %d bytes, want %d", h.kind(), h.length(), want)
	}
	if h.stream() == 0 && want != 8 {
		return fmt.Errorf("a frame of kind %d on no stream", h.kind())
	}
	return nil
}

func appendHeader(b []byte, k kind, flags uint8, length int, stream uint32) []byte {
	b = append(b, byte(k), flags)
	b = binary.BigEndian.AppendUint16(b, uint16(length)) //nolint:gosec // at most maxFrame
	return binary.BigEndian.AppendUint32(b, stream)
}
