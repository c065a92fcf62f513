package jetstream

import (
	"errors"
	"fmt"
	"strings"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
)

// Options say where NATS is, who we are, and which streams are meant.
type Options struct {
	access.Server
	// Domain is the JetStream domain; empty for the account's own.
	Domain string

	// Topic is the start of all subjects.
	Topic string
	// Stream is the name of the frames' stream; StreamName(Topic) if empty.
	Stream string
	// SchemasStream is the registry's; SchemasName(Stream) if empty.
	SchemasStream string
	// Filter for subjects of frames that a Consumer, Follower or Read uses unless told otherwise; all of the topic's if empty.
	Filter string
}

// StreamName is the name of the frames' stream of a topic if none is configured: the topic in capitals, with all but
// letters, digits and - made _.
func StreamName(topic string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, topic)
}

// SchemasName is the name of the registry's stream beside a frames' stream.
func SchemasName(frames string) string { return frames + "_SCHEMAS" }

func (o *Options) setDefaults() error {
	if o.Topic == "" && (o.Stream == "" || o.Filter == "") {
		return errors.New("topic is empty")
	}
	if o.Stream == "" {
		o.Stream = StreamName(o.Topic)
	}
	if o.SchemasStream == "" {
		o.SchemasStream = SchemasName(o.Stream)
	}
	for _, name := range []string{o.Stream, o.SchemasStream} {
		if err := checkName("stream", name); err != nil {
			return err
		}
	}
	if o.Filter == "" {
		o.Filter = stream.Subjects{Topic: o.Topic}.AllFrames()
	}
	return o.Server.SetDefaults()
}

// checkName refuses what cannot be a name of a stream or consumer, before it becomes part of a subject.
func checkName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%s name is empty", kind)
	}
	if i := strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || strings.ContainsRune(".*>/\\\x7f", r) }); i >= 0 {
		return fmt.Errorf("%s name %q has a character that is not allowed at byte %d", kind, name, i)
	}
	return nil
}
