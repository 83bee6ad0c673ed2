package wire

import (
	"sync"
	"sync/atomic"
)

// Chunks come in two sizes: what small requests need, and a frame.
const (
	smallChunk = 2 << 10
	largeChunk = 16 << 10
)

// A chunk is a piece of a buffer: buf[r:w] waits.
type chunk struct {
	next *chunk
	buf  []byte
	r, w int
}

var (
	smallChunks = sync.Pool{New: func() any { return &chunk{buf: make([]byte, smallChunk)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{buf: make([]byte, largeChunk)} }}
)

// newChunk has room for n bytes, if n is no more than largeChunk.
func newChunk(n int) *chunk {
	pool := &largeChunks
	if n <= smallChunk {
		pool = &smallChunks
	}
	c, _ := pool.Get().(*chunk)
	return c
}

func (c *chunk) free() {
	c.next, c.r, c.w = nil, 0, 0
	if len(c.buf) == smallChunk {
		smallChunks.Put(c)
	} else {
		largeChunks.Put(c)
	}
}

// buffer is a queue of bytes that takes memory only while there are some.
type buffer struct {
	head, tail *chunk
	n          int
}

func (b *buffer) len() int { return b.n }

// write appends a copy of p.
func (b *buffer) write(p []byte) {
	b.n += len(p)
	p = b.fill(p)
	for len(p) > 0 {
		c := newChunk(len(p))
		c.w = copy(c.buf, p)
		p = p[c.w:]
		b.link(c)
	}
}

// take appends c, which it owns from now on. It first fills what is free in the
// last chunk, so that many small frames need no more memory than one large one.
func (b *buffer) take(c *chunk) {
	b.n += c.w - c.r
	c.r = c.w - len(b.fill(c.buf[c.r:c.w]))
	if c.r == c.w {
		c.free()
		return
	}
	b.link(c)
}

func (b *buffer) fill(p []byte) []byte {
	if b.tail == nil {
		return p
	}
	n := copy(b.tail.buf[b.tail.w:], p)
	b.tail.w += n
	return p[n:]
}

func (b *buffer) link(c *chunk) {
	if b.tail == nil {
		b.head = c
	} else {
		b.tail.next = c
	}
	b.tail = c
}

func (b *buffer) read(p []byte) int {
	total := 0
	for b.head != nil && total < len(p) {
		c := b.head
		n := copy(p[total:], c.buf[c.r:c.w])
		c.r += n
		total += n
		if c.r < c.w {
			break
		}
		if b.head = c.next; b.head == nil {
			b.tail = nil
		}
		c.free()
	}
	b.n -= total
	return total
}

// drop forgets everything and says how much it was.
func (b *buffer) drop() int {
	n := b.n
	for c := b.head; c != nil; {
		next := c.next
		c.free()
		c = next
	}
	*b = buffer{}
	return n
}

// Budget bounds the memory of several sessions together: what waits on them to be
// read, and what their grown windows let the other ends send. The first MiB of each
// session is outside of it, so that a session that hoards harms only the growth of
// others.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget is a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Used is how much of it is taken.
func (b *Budget) Used() int64 { return b.used.Load() }

func (b *Budget) take(n, parts int64) bool {
	if b == nil || n <= 0 {
		return true
	}
	if b.used.Add(n) > b.limit/parts {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *Budget) give(n int64) {
	if b != nil && n > 0 {
		b.used.Add(-n)
	}
}

// purse is a session's part of two budgets: its own, and the one it shares.
type purse struct {
	limit, held int64
	shared      *Budget
}

const unshared = 1 << 20 // bytes of each session that the shared budget does not count

// take pays for n bytes that came.
func (p *purse) take(n int64) bool { return p.pay(n, 1) }

// grow pays for n bytes that a window grows by. Half of the budgets is kept for
// what comes.
func (p *purse) grow(n int64) bool { return p.pay(n, 2) }

func (p *purse) pay(n, parts int64) bool {
	if p.held+n > p.limit/parts || !p.shared.take(beyond(p.held+n)-beyond(p.held), parts) {
		return false
	}
	p.held += n
	return true
}

func (p *purse) give(n int64) {
	p.shared.give(beyond(p.held) - beyond(p.held-n))
	p.held -= n
}

func beyond(n int64) int64 { return max(0, n-unshared) }
