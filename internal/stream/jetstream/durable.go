package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of durables.
const (
	defaultMaxAckPending = 20000
	defaultAckWait       = 30 * time.Second
)

// EnsureDurable creates the durable of a sink if it is absent and that is wanted, so that the receiver itself needs no
// right to. An empty filter is the connection's. What is there and cannot be used is an error that says why.
func (c *Conn) EnsureDurable(ctx context.Context, name, filter string, create bool) error {
	if _, err := c.link.waitUp(ctx); err != nil {
		return fmt.Errorf("checking consumer %s: %w", name, err)
	}
	o := ConsumerOptions{Durable: name, Filter: filter, Create: create}
	if err := o.setDefaults(c); err != nil {
		return err
	}
	info, err := c.consumerInfo(ctx, name)
	switch {
	case err == nil:
		return usable(info, &o)
	case errors.Is(err, ErrNoConsumer) && create:
		_, err = c.createDurable(ctx, o.config(0))
		return err
	}
	return fmt.Errorf("looking at consumer %s of stream %s: %w", name, c.opts.Stream, err)
}

// usable tells whether a durable that exists does what a Consumer promises.
func usable(info *jetstream.ConsumerInfo, o *ConsumerOptions) error {
	cfg := info.Config
	var wrong string
	switch {
	case cfg.DeliverSubject != "":
		wrong = "it is a push consumer"
	case cfg.AckPolicy != jetstream.AckExplicitPolicy:
		wrong = fmt.Sprintf("its acknowledgement policy is %s; only explicit loses nothing after a crash", cfg.AckPolicy)
	case cfg.MaxDeliver > 0:
		wrong = fmt.Sprintf("it gives a message up after %d deliveries (max_deliver)", cfg.MaxDeliver)
	case len(cfg.FilterSubjects) > 0 || cfg.FilterSubject != o.Filter:
		wrong = fmt.Sprintf("its filter is %q%v, wanted is %q", cfg.FilterSubject, cfg.FilterSubjects, o.Filter)
	case cfg.HeadersOnly:
		wrong = "it delivers headers only"
	default:
		return nil
	}
	return fmt.Errorf("consumer %s of stream %s is %w: %s; use another name or delete it", o.Durable, info.Stream, errConflict, wrong)
}

// config is the durable's; startAt, if not 0, is the first sequence that it has to deliver.
func (o *ConsumerOptions) config(startAt uint64) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Name: o.Durable, Durable: o.Durable, Description: "prometheus-streams receiver", FilterSubject: o.Filter,
		AckPolicy: jetstream.AckExplicitPolicy, ReplayPolicy: jetstream.ReplayInstantPolicy,
		AckWait: o.AckWait, MaxAckPending: o.MaxAckPending, MaxDeliver: -1,
	}
	return startingAt(cfg, startAt)
}

func startingAt(cfg jetstream.ConsumerConfig, seq uint64) jetstream.ConsumerConfig {
	cfg.DeliverPolicy, cfg.OptStartSeq, cfg.OptStartTime = jetstream.DeliverAllPolicy, 0, nil
	if seq > 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, seq
	}
	return cfg
}

func (c *Conn) createDurable(ctx context.Context, cfg jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	info, err := c.createConsumer(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("creating consumer %s of stream %s: %w", cfg.Durable, c.opts.Stream, err)
	}
	c.log.Info("created consumer", "consumer", cfg.Durable, "stream", c.opts.Stream, "subject", cfg.FilterSubject, "from", cfg.OptStartSeq)
	return info, nil
}

// createConsumer makes a consumer; the filter is part of the request's subject, so that rights can be given by it.
func (c *Conn) createConsumer(ctx context.Context, cfg jetstream.ConsumerConfig) (*jetstream.ConsumerInfo, error) {
	in := struct {
		Stream string                   `json:"stream_name"`
		Config jetstream.ConsumerConfig `json:"config"`
		Action string                   `json:"action"`
	}{c.opts.Stream, cfg, "create"}
	verb := "CONSUMER.CREATE." + c.opts.Stream + "." + cfg.Name
	if cfg.FilterSubject != "" {
		verb += "." + cfg.FilterSubject
	}
	var info jetstream.ConsumerInfo
	if err := c.call(ctx, verb, in, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

func (c *Conn) consumerInfo(ctx context.Context, name string) (*jetstream.ConsumerInfo, error) {
	var info jetstream.ConsumerInfo
	if err := c.call(ctx, "CONSUMER.INFO."+c.opts.Stream+"."+name, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// floor puts together how far a consumer has come in the stream.
func (c *Conn) floor(ctx context.Context, sequence, delivered uint64) (stream.Floor, error) {
	info, err := c.streamInfo(ctx, c.opts.Stream)
	if err != nil {
		return stream.Floor{}, fmt.Errorf("looking at stream %s: %w", c.opts.Stream, err)
	}
	f := stream.Floor{Created: info.Created, Sequence: sequence, Delivered: delivered, First: info.State.FirstSeq, Last: info.State.LastSeq}
	if sequence == 0 || sequence < f.First || sequence > f.Last {
		return f, nil
	}
	m, err := c.getSequence(ctx, sequence)
	switch {
	case err == nil:
		f.Stored = m.Stored
	case !errors.Is(err, stream.ErrNotFound):
		c.log.Debug("the time of the floor is not known", "stream", c.opts.Stream, "seq", sequence, "error", err)
	}
	return f, nil
}

// getSequence reads one stored message.
func (c *Conn) getSequence(ctx context.Context, seq uint64) (*stream.Message, error) {
	return c.directGet(ctx, c.opts.Stream, directRequest{Seq: seq})
}

// directRequest is a request for stored messages; the fields are the server's.
type directRequest struct {
	Seq       uint64     `json:"seq,omitempty"`
	NextFor   string     `json:"next_by_subj,omitempty"`
	Batch     int        `json:"batch,omitempty"`
	MaxBytes  int        `json:"max_bytes,omitempty"`
	StartTime *time.Time `json:"start_time,omitempty"`
}

func (c *Conn) directGet(ctx context.Context, name string, r directRequest) (*stream.Message, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return c.direct(ctx, name, &nats.Msg{Subject: c.api("DIRECT.GET." + name), Data: body})
}

func (c *Conn) direct(ctx context.Context, name string, m *nats.Msg) (*stream.Message, error) {
	answer, err := c.request(ctx, m)
	if errors.Is(err, errNobody) {
		return nil, fmt.Errorf("stream %s does not exist or does not allow direct get", name)
	}
	if err != nil {
		return nil, err
	}
	return storedMessage(name, answer)
}

// storedMessage makes a message of an answer to a direct get.
func storedMessage(name string, answer *nats.Msg) (*stream.Message, error) {
	switch status := answer.Header.Get("Status"); status {
	case "":
	case "404":
		return nil, fmt.Errorf("stream %s: %w", name, stream.ErrNotFound)
	default:
		return nil, fmt.Errorf("stream %s answers %s %s", name, status, answer.Header.Get("Description"))
	}
	seq, err := strconv.ParseUint(answer.Header.Get(jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("stream %s: answer without a sequence", name)
	}
	stored, err := time.Parse(time.RFC3339Nano, answer.Header.Get(jetstream.TimeStampHeaer))
	if err != nil {
		return nil, fmt.Errorf("stream %s: answer without a time", name)
	}
	return &stream.Message{
		Subject: answer.Header.Get(jetstream.SubjectHeader), Data: answer.Data, Sequence: seq, Stored: stored,
		Ack: nothing, InProgress: nothing,
	}, nil
}

func nothing() error { return nil }
