package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamConfig says how the streams are created, and what they are checked against.
type StreamConfig struct {
	// Create makes streams that are absent.
	Create bool
	// MaxAge (24h if 0), MaxBytes (no limit if 0) and Replicas (1 if 0) of a frames' stream that is created. The
	// registry keeps two days longer and has no limit of bytes.
	MaxAge   time.Duration
	MaxBytes int64
	Replicas int
	// NeedAge is how old frames may be and still be delivered; 0 if that has no bound.
	NeedAge time.Duration
	// KeyframeInterval is the longest time between keyframes; 5m if 0.
	KeyframeInterval time.Duration
}

func (w *StreamConfig) setDefaults() {
	if w.MaxAge <= 0 {
		w.MaxAge = 24 * time.Hour
	}
	if w.MaxBytes <= 0 {
		w.MaxBytes = -1
	}
	if w.Replicas <= 0 {
		w.Replicas = 1
	}
	if w.KeyframeInterval <= 0 {
		w.KeyframeInterval = 5 * time.Minute
	}
}

// EnsureStreams creates the streams if they are absent and that is wanted, and checks those that are there. Streams
// that exist are never changed. The error says that the question could not be answered: no connection, no JetStream.
func (c *Conn) EnsureStreams(ctx context.Context, want StreamConfig) ([]Problem, error) {
	want.setDefaults()
	if _, err := c.link.waitUp(ctx); err != nil {
		return nil, fmt.Errorf("checking stream %s: %w", c.opts.Stream, err)
	}
	topic := stream.Subjects{Topic: c.opts.Topic}
	frames := jetstream.StreamConfig{
		Name: c.opts.Stream, Description: "frames of metrics from prometheus-streams", Subjects: []string{topic.AllFrames()},
		MaxAge: want.MaxAge, MaxBytes: want.MaxBytes, Replicas: want.Replicas, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, Storage: jetstream.FileStorage, AllowDirect: true,
	}
	schemas := frames
	schemas.Name, schemas.Description = c.opts.SchemasStream, "schemas of the frames in "+c.opts.Stream
	schemas.Subjects, schemas.MaxMsgsPerSubject, schemas.MaxBytes = []string{topic.AllSchemas()}, 1, -1

	cfg, problems, err := c.ensureStream(ctx, frames, want.Create)
	if err != nil {
		return nil, err
	}
	framesAge := want.MaxAge
	if cfg != nil {
		framesAge = cfg.MaxAge
		problems = append(problems, c.checkFrames(*cfg, want)...)
	}
	schemas.MaxAge = 0
	if framesAge > 0 {
		schemas.MaxAge = framesAge + schemasOutlive
	}
	cfg, more, err := c.ensureStream(ctx, schemas, want.Create)
	if err != nil {
		return nil, err
	}
	problems = append(problems, more...)
	if cfg != nil {
		problems = append(problems, c.checkSchemas(*cfg, framesAge)...)
	}
	return problems, nil
}

// ensureStream gives the configuration of a stream as it is, or nil and the problem.
func (c *Conn) ensureStream(ctx context.Context, want jetstream.StreamConfig, create bool) (*jetstream.StreamConfig, []Problem, error) {
	k := &checker{name: want.Name}
	info, err := c.streamInfo(ctx, want.Name)
	var denied *stream.PermissionError
	switch {
	case err == nil:
		return &info.Config, nil, nil
	case errors.As(err, &denied) && denied.Operation == "publish":
		k.say("no right to look at it", "what is wrong with it cannot be told: "+denied.Error(), "allow the user to publish on "+denied.Subject)
		return nil, k.found, nil
	case !errors.Is(err, ErrNoStream):
		return nil, nil, fmt.Errorf("looking at stream %s: %w", want.Name, err)
	case !create:
		k.say("it does not exist", "nothing that is published is stored", "run `check stream --create` or start a receiver that may create it")
		return nil, k.found, nil
	}
	var made jetstream.StreamInfo
	err = c.call(ctx, "STREAM.CREATE."+want.Name, want, &made)
	var refused *jetstream.APIError
	if errors.As(err, &refused) && refused.ErrorCode == jetstream.JSErrCodeStreamNameInUse {
		if info, err := c.streamInfo(ctx, want.Name); err == nil {
			return &info.Config, nil, nil // somebody else was faster
		}
	}
	switch {
	case err == nil:
		c.log.Info("created stream", "stream", want.Name, "subject", want.Subjects[0], "duration", made.Config.MaxAge)
		return &made.Config, nil, nil
	case errors.As(err, &denied) && denied.Operation == "publish":
		k.say("it does not exist, and there is no right to create it", "nothing that is published is stored",
			"allow the user to publish on "+denied.Subject+", or run `check stream --create` as one who may")
	case errors.As(err, &refused):
		k.say("it does not exist, and the server refuses to create it", fmt.Sprintf("%s (%d)", refused.Description, refused.ErrorCode),
			"change stream_config, or the limits of the server or account")
	default:
		return nil, nil, fmt.Errorf("creating stream %s: %w", want.Name, err)
	}
	return nil, k.found, nil
}

func (c *Conn) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	var info jetstream.StreamInfo
	if err := c.call(ctx, "STREAM.INFO."+name, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}
