package forward

import (
	"context"
	"errors"
	"log/slog"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

// parts is how large a message may be before it is sent as parts (stream.Cut). Nothing is known until the server or the
// stream finds a message too large, and forgotten with the connection: the next server may take more.
type parts struct {
	most int // bytes; 0 is any
}

// shrink tells whether a result means that the message has to be cut (smaller), and notes how small.
func (p *parts) shrink(log *slog.Logger, subject string, size int, err error) bool {
	var large *stream.TooLargeError
	if !errors.As(err, &large) {
		return false
	}
	if p.most > 0 {
		size = min(size, p.most)
	}
	limit := max(size/2, stream.MinPart)
	if large.Limit > 0 {
		limit = int(large.Limit)
	}
	if limit < stream.MinPart || limit >= size {
		return false
	}
	p.most = limit
	log.Warn("a message is larger than the server or the stream takes: larger ones are sent in parts from here on",
		"subject", subject, "bytes", size, "limit", limit)
	return true
}

// narrow tells whether what the server or the stream takes is too little for messages of any use. No message is set aside
// for that: all of them wait until it takes more.
func narrow(err error) bool {
	var large *stream.TooLargeError
	return errors.As(err, &large) && large.Narrow()
}

// publish hands a message to the publisher, in parts if it is large; subject is that of a part, by its number from 1.
func (f *Forwarder) publish(message []byte, subject func(part int) string) ([]<-chan stream.Result, error) {
	pieces, err := stream.Cut(message, f.parts.most)
	if err != nil {
		return nil, err
	}
	if len(pieces) > 1 {
		f.metrics.cut.Inc()
	}
	results := make([]<-chan stream.Result, len(pieces))
	for i, b := range pieces {
		results[i] = f.publisher.Publish(subject(i+1), b)
	}
	return results, nil
}

// awaitAll awaits the results of a message's parts. That of the whole is err, the first error, or the last sequence.
func (f *Forwarder) awaitAll(ctx context.Context, results []<-chan stream.Result, err error) (stream.Result, error) {
	whole := stream.Result{Err: err}
	for _, result := range results {
		r, err := f.await(ctx, result)
		if err != nil {
			return stream.Result{}, err
		}
		if whole.Err == nil {
			whole = r
		}
	}
	return whole, nil
}
