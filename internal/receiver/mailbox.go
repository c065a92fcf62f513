package receiver

import "sync"

// mailbox takes functions from any goroutine for one that runs them. Posting never blocks: a sink may give its verdict
// inside Deliver, on the very goroutine that reads the box. What is in it is bounded by the frames in flight.
type mailbox struct {
	wake chan struct{}
	box  *postbox
}

type postbox struct {
	mu    sync.Mutex
	posts []func()
	spare []func()
}

func newMailbox() mailbox { return mailbox{wake: make(chan struct{}, 1), box: &postbox{}} }

func (m mailbox) post(f func()) {
	m.box.mu.Lock()
	m.box.posts = append(m.box.posts, f)
	m.box.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run calls all that was posted up to now, in order.
func (m mailbox) run() {
	m.box.mu.Lock()
	posts := m.box.posts
	m.box.posts, m.box.spare = m.box.spare[:0], nil
	m.box.mu.Unlock()
	for i, f := range posts {
		f()
		posts[i] = nil
	}
	m.box.mu.Lock()
	if m.box.spare == nil {
		m.box.spare = posts[:0]
	}
	m.box.mu.Unlock()
}
