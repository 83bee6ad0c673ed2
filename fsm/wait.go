package fsm

import (
	"container/heap"
	"context"
	"sync"
)

// waiters are those who wait for an index to be applied, the lowest index first:
// an entry wakes whom it satisfies and touches nobody else, however many wait
// for later ones. The zero value is ready.
type waiters struct {
	mu   sync.Mutex
	heap waiterHeap
}

type waiter struct {
	index    uint64
	done     chan struct{}
	position int // in the heap; -1 once woken
}

// wait blocks until wake was called with index or more. applied must already
// show an index when wake is called with it: as both look under the same lock,
// no wake-up is missed.
func (ws *waiters) wait(ctx context.Context, index uint64, applied func() uint64) error {
	if applied() >= index {
		return nil
	}
	ws.mu.Lock()
	if applied() >= index {
		ws.mu.Unlock()
		return nil
	}
	w := &waiter{index: index, done: make(chan struct{})}
	heap.Push(&ws.heap, w)
	ws.mu.Unlock()

	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		ws.mu.Lock()
		defer ws.mu.Unlock()
		if w.position < 0 {
			return nil // woken while the context ended: the answer is there
		}
		heap.Remove(&ws.heap, w.position)
		return ctx.Err()
	}
}

func (ws *waiters) wake(index uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for len(ws.heap) > 0 && ws.heap[0].index <= index {
		close(heap.Pop(&ws.heap).(*waiter).done)
	}
}

// waiterHeap implements heap.Interface.
type waiterHeap []*waiter

func (h waiterHeap) Len() int           { return len(h) }
func (h waiterHeap) Less(i, j int) bool { return h[i].index < h[j].index }

func (h waiterHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].position, h[j].position = i, j
}

func (h *waiterHeap) Push(x any) {
	w := x.(*waiter)
	w.position = len(*h)
	*h = append(*h, w)
}

func (h *waiterHeap) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.position = -1
	return w
}
