package wire

import "net"

// resetAborted: who sends it gave the stream up.
const resetAborted uint8 = 3

// Reset ends both directions at once: what was written and not sent yet is lost, and
// the other end reads an error after what came, where Close would have it read io.EOF.
// It is how who passes a stream on says that it broke off.
func (st *stream) Reset() error {
	s := st.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[st.id] == st && st.resetDue == 0 { // else it is over already
		st.reset(resetAborted, net.ErrClosed)
	}
	return nil
}
