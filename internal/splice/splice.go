package splice

import (
	"errors"
	"io"
	"sync"
)

// Sizes of buffers, in bytes.
const (
	Small = 2 << 10
	Big   = 32 << 10
)

// Pools hold the buffers that nobody uses.
type Pools struct{ small, big sync.Pool }

// NewPools are empty ones.
func NewPools() *Pools {
	return &Pools{
		small: sync.Pool{New: func() any { return new([Small]byte) }},
		big:   sync.Pool{New: func() any { return new([Big]byte) }},
	}
}

// Buffer is that of one direction: small until it grows. Who made it frees it.
type Buffer struct {
	pools *Pools
	small *[Small]byte
	big   *[Big]byte
}

// Buffer makes one.
func (p *Pools) Buffer() Buffer { return Buffer{pools: p} }

// Bytes are what the next read goes to.
func (b *Buffer) Bytes() []byte {
	if b.big != nil {
		return b.big[:]
	}
	if b.small == nil {
		b.small = b.pools.small.Get().(*[Small]byte)
	}
	return b.small[:]
}

// Grow makes it a big one.
func (b *Buffer) Grow() {
	if b.big == nil {
		b.big = b.pools.big.Get().(*[Big]byte)
	}
}

// Adapt picks the size for the next read by how much the last one brought.
func (b *Buffer) Adapt(n int) {
	switch {
	case b.big == nil && n == Small:
		b.Grow()
	case b.big != nil && n < Small:
		b.pools.big.Put(b.big)
		b.big = nil
	}
}

// Free gives it back.
func (b *Buffer) Free() {
	if b.small != nil {
		b.pools.small.Put(b.small)
	}
	if b.big != nil {
		b.pools.big.Put(b.big)
	}
	b.small, b.big = nil, nil
}

// Copy copies until src ends, then tells dst that no more comes. nil: a clean end; one
// that dst can't be told of, for want of a CloseWrite, is none. Each piece is reported
// to passed, if that is not nil, before it is written.
func (p *Pools) Copy(dst io.Writer, src io.Reader, passed func()) error {
	buf := p.Buffer()
	defer buf.Free()
	for {
		piece := buf.Bytes()
		n, err := src.Read(piece)
		if n > 0 {
			if passed != nil {
				passed()
			}
			if _, err := dst.Write(piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return CloseWrite(dst)
		}
		if err != nil {
			return err
		}
		buf.Adapt(n)
	}
}

// CloseWrite says that no more is written to w.
func CloseWrite(w io.Writer) error {
	if half, ok := w.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("the connection can't be closed by halves")
}
