package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
)

// One request for stored messages asks for at most so much.
const (
	readBatch = 256
	readBytes = 4 << 20
)

// Schema gives the newest message of a subject from the registry. The error wraps stream.ErrNotFound only if the
// registry answered that it has none; no answer, a denial or a missing registry are other errors. In a cluster the
// answer comes from any replica, one of which may not have a message yet that was stored a moment ago.
func (c *Conn) Schema(ctx context.Context, subject string) ([]byte, error) {
	data, err := c.lastOf(ctx, subject)
	if err != nil || !stream.IsPart(data) {
		return data, err
	}
	p, err := stream.ParsePart(data)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", subject, err)
	}
	var parts stream.Joiner
	for number := 1; ; number++ {
		whole, err := parts.Add(&stream.Message{Subject: subject, Data: data})
		switch {
		case err != nil:
			return nil, fmt.Errorf("reading %s: %w", subject, err)
		case whole != nil:
			return whole.Data, nil
		case number >= p.Parts:
			// Some are of another storing of the same schema, which goes on now or was given up.
			return nil, fmt.Errorf("reading %s: %w: its %d parts do not fit together", subject, stream.ErrNotFound, p.Parts)
		}
		if data, err = c.lastOf(ctx, stream.SchemaPart(subject, number+1)); err != nil {
			return nil, err
		}
	}
}

// lastOf gives the newest message of a subject of the registry.
func (c *Conn) lastOf(ctx context.Context, subject string) ([]byte, error) {
	m, err := c.direct(ctx, c.opts.SchemasStream, &nats.Msg{Subject: c.api("DIRECT.GET." + c.opts.SchemasStream + "." + subject)})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", subject, err)
	}
	return m.Data, nil
}

// Read hands stored messages to handle, in the order of the stream, without consuming them, until r.To, the end of the
// stream, an error of handle, or the end of ctx. At most one batch (4 MiB and one message) is held at a time. The
// messages' Ack and InProgress do nothing.
func (c *Conn) Read(ctx context.Context, r stream.Range, handle func(stream.Message) error) error {
	if r.Subject == "" {
		r.Subject = c.opts.Filter
	}
	next := directRequest{Seq: 1, NextFor: r.Subject, Batch: readBatch, MaxBytes: readBytes}
	if !r.From.IsZero() {
		next.Seq, next.StartTime = 0, &r.From
	}
	var failed error // the handler's
	for next.Seq <= r.To {
		first := true
		last, err := c.readBatch(ctx, next, func(m stream.Message) error {
			switch {
			case m.Sequence > r.To:
				return errEnough
			case first && next.StartTime != nil && m.Stored.Before(r.From):
				return errTooEarly
			}
			first = false
			failed = handle(m)
			return failed
		})
		switch {
		case failed != nil:
			return failed
		case errors.Is(err, stream.ErrNotFound), errors.Is(err, errEnough):
			return nil
		case errors.Is(err, errTooEarly):
			// The server does not know start_time; it gave the first message of the subject.
			if last, err = c.searchTime(ctx, r); errors.Is(err, stream.ErrNotFound) {
				return nil
			}
		}
		if err != nil {
			return fmt.Errorf("reading stream %s: %w", c.opts.Stream, err)
		}
		next.Seq, next.StartTime = last+1, nil
	}
	return nil
}

var (
	errEnough   = errors.New("enough")
	errTooEarly = errors.New("earlier than asked for")
	errSilent   = fmt.Errorf("%w in the middle of a batch", ErrNoAnswer)
)

// readBatch makes one request and hands over what comes; it returns the last sequence that came. Servers before 2.11
// know no batches and answer with one message, which this takes as a batch of one.
func (c *Conn) readBatch(ctx context.Context, r directRequest, handle func(stream.Message) error) (last uint64, err error) {
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	subject, inbox := c.api("DIRECT.GET."+c.opts.Stream), c.nats().NewInbox()
	defer c.denials.watch(subject, func(e *stream.PermissionError) { cancel(e) })()
	answers := make(chan *nats.Msg, readBatch+8)
	sub, err := c.nats().ChanSubscribe(inbox, answers)
	if err == nil {
		defer sub.Unsubscribe() //nolint:errcheck // it fails only when the connection is gone
		err = c.nats().PublishRequest(subject, inbox, body)
	}
	if err != nil {
		if disconnected(err) {
			err = fmt.Errorf("%w to NATS", stream.ErrDisconnected)
		}
		return 0, err
	}
	state := c.link.state()
	silence := time.NewTimer(c.opts.RequestTimeout)
	defer silence.Stop()
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-state.changed:
			return last, fmt.Errorf("%w to NATS", stream.ErrDisconnected)
		case <-silence.C:
			return last, errSilent
		}
		switch m.Header.Get("Status") {
		case "204":
			return last, nil // end of the batch
		case "503":
			return last, errors.New("it does not exist or does not allow direct get")
		}
		stored, err := storedMessage(c.opts.Stream, m)
		if err != nil {
			return last, err
		}
		if err := handle(*stored); err != nil {
			return last, err
		}
		last = stored.Sequence
		if m.Header.Get("Nats-Num-Pending") == "" {
			return last, nil // a server without batches
		}
		silence.Reset(c.opts.RequestTimeout)
	}
}

// searchTime finds the sequence before the first message of a subject stored at or after r.From by halving, for servers
// that cannot look it up.
func (c *Conn) searchTime(ctx context.Context, r stream.Range) (uint64, error) {
	info, err := c.streamInfo(ctx, c.opts.Stream)
	if err != nil {
		return 0, err
	}
	low, high := info.State.FirstSeq, min(info.State.LastSeq, r.To)
	if low > high {
		return 0, stream.ErrNotFound
	}
	n := sort.Search(int(high-low)+1, func(i int) bool {
		if err != nil {
			return true
		}
		m, e := c.directGet(ctx, c.opts.Stream, directRequest{Seq: low + uint64(i), NextFor: r.Subject})
		if errors.Is(e, stream.ErrNotFound) {
			return true // none of the subject from here on
		}
		if err = e; err != nil {
			return true
		}
		return !m.Stored.Before(r.From)
	})
	return low + uint64(n) - 1, err
}
