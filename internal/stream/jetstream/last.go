package jetstream

import (
	"context"
	"errors"
	"fmt"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// Topic is the start of all subjects of the connection.
func (c *Conn) Topic() string { return c.opts.Topic }

// Last gives the last n messages of the frames' stream, the oldest first; fewer if it holds fewer. It needs the rights
// to ask for the stream's state and for its messages.
func (c *Conn) Last(ctx context.Context, n int) ([]stream.Message, error) {
	if _, err := c.link.waitUp(ctx); err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", c.opts.Stream, err)
	}
	info, err := c.streamInfo(ctx, c.opts.Stream)
	if err != nil {
		return nil, fmt.Errorf("reading stream %s: %w", c.opts.Stream, err)
	}
	if info.State.Msgs == 0 {
		return nil, nil
	}
	from := info.State.FirstSeq
	if last := info.State.LastSeq; last-from >= uint64(n) {
		from = last - uint64(n) + 1
	}
	var out []stream.Message
	for seq := from; seq <= info.State.LastSeq; seq++ {
		m, err := c.getSequence(ctx, seq)
		if errors.Is(err, stream.ErrNotFound) {
			continue // deleted
		}
		if err != nil {
			return nil, fmt.Errorf("reading message %d of stream %s: %w", seq, c.opts.Stream, err)
		}
		out = append(out, *m)
	}
	return out, nil
}
