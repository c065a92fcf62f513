package jetstream

import (
	"fmt"
	"strings"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// schemasOutlive is how much longer the registry has to keep a schema than the stream keeps frames: a schema is stored
// again only daily.
const schemasOutlive = 48 * time.Hour

// Problem is one thing that is wrong with a stream: what, what follows from it, and what mends it.
type Problem struct {
	Stream         string
	What, Why, Fix string
}

func (p Problem) String() string {
	return fmt.Sprintf("stream %s: %s: %s; %s", p.Stream, p.What, p.Why, p.Fix)
}

// checker collects the problems of one stream.
type checker struct {
	name  string
	found []Problem
}

func (k *checker) say(what, why, fix string) {
	k.found = append(k.found, Problem{Stream: k.name, What: what, Why: why, Fix: fix})
}

// edit is the command that changes a setting of a stream.
func (k *checker) edit(flag string) string {
	return fmt.Sprintf("`nats stream edit %s %s`", k.name, flag)
}

// checkFrames says what is wrong with a stream of frames.
func (c *Conn) checkFrames(cfg jetstream.StreamConfig, want StreamConfig) []Problem {
	k := &checker{name: cfg.Name}
	if cfg.MaxAge > 0 && cfg.MaxAge < 2*want.KeyframeInterval {
		k.say(fmt.Sprintf("max_age %s is shorter than two keyframe intervals (%s)", cfg.MaxAge, 2*want.KeyframeInterval),
			"a receiver that starts may find no keyframe to begin with", k.edit("--max-age 24h"))
	}
	if cfg.MaxAge > 0 && want.NeedAge > cfg.MaxAge {
		k.say(fmt.Sprintf("max_age %s is shorter than the configured max_age %s", cfg.MaxAge, want.NeedAge),
			"frames that would still be delivered are removed before", k.edit("--max-age "+hours(want.NeedAge)))
	}
	if cfg.MaxMsgs > 0 {
		k.say(fmt.Sprintf("max_msgs is %d", cfg.MaxMsgs), "a busy hour removes messages that nobody has received", k.edit("--max-msgs=-1"))
	}
	if cfg.MaxMsgsPerSubject > 0 {
		k.say(fmt.Sprintf("max_msgs_per_subject is %d", cfg.MaxMsgsPerSubject),
			"a publisher's messages all have one subject, so all but the last are removed", k.edit("--max-msgs-per-subject=-1"))
	}
	if most := c.nats().MaxPayload(); cfg.MaxMsgSize >= 0 && int64(cfg.MaxMsgSize) < most && cfg.MaxMsgSize != 0 {
		k.say(fmt.Sprintf("max_msg_size %d is less than the server's max_payload %d", cfg.MaxMsgSize, most),
			"messages between the two are refused and set aside at the edge", k.edit("--max-msg-size=-1"))
	}
	if most := c.nats().MaxPayload(); cfg.MaxBytes > 0 && cfg.MaxBytes < 2*most {
		k.say(fmt.Sprintf("max_bytes %d is less than two messages of the server's max_payload %d", cfg.MaxBytes, most),
			"a message larger than the stream is acknowledged and not kept", k.edit("--max-bytes 1GB"))
	}
	k.checkBoth(cfg, c.opts.Filter, stream.Subjects{Topic: c.opts.Topic}, "frames")
	return k.found
}

// checkSchemas says what is wrong with a registry; framesAge is how long the frames' stream keeps, 0 for ever.
func (c *Conn) checkSchemas(cfg jetstream.StreamConfig, framesAge time.Duration) []Problem {
	k := &checker{name: cfg.Name}
	if cfg.MaxAge > 0 && (framesAge == 0 || cfg.MaxAge < framesAge+schemasOutlive) {
		need := "no limit, as the frames have none"
		fix := k.edit("--max-age=0")
		if framesAge > 0 {
			need = (framesAge + schemasOutlive).String()
			fix = k.edit("--max-age " + hours(framesAge+schemasOutlive))
		}
		k.say(fmt.Sprintf("max_age %s is too short, it needs %s", cfg.MaxAge, need), "frames outlive the schemas they need and cannot be decoded", fix)
	}
	if cfg.MaxMsgs > 0 || cfg.MaxBytes > 0 {
		k.say(fmt.Sprintf("max_msgs is %d and max_bytes %d", cfg.MaxMsgs, cfg.MaxBytes),
			"schemas that frames still need are removed when it is full", k.edit("--max-msgs=-1 --max-bytes=-1"))
	}
	if cfg.MaxMsgsPerSubject != 1 {
		k.say(fmt.Sprintf("max_msgs_per_subject is %d", cfg.MaxMsgsPerSubject), "the same schemas are kept many times", k.edit("--max-msgs-per-subject=1"))
	}
	k.checkBoth(cfg, stream.Subjects{Topic: c.opts.Topic}.AllSchemas(), stream.Subjects{Topic: c.opts.Topic}, "schemas")
	return k.found
}

// checkBoth is what frames and schemas need alike.
func (k *checker) checkBoth(cfg jetstream.StreamConfig, subjects string, topic stream.Subjects, kind string) {
	if !cfg.AllowDirect && !(cfg.Mirror != nil && cfg.MirrorDirect) {
		k.say("direct get is not allowed", "stored messages cannot be read again, so "+kind+" cannot be looked up", k.edit("--allow-direct"))
	}
	if cfg.Retention != jetstream.LimitsPolicy {
		k.say(fmt.Sprintf("retention is %s", cfg.Retention), "what one sink has acknowledged is removed, though others and a restart need it",
			"make the stream again with retention limits")
	}
	if cfg.Storage == jetstream.MemoryStorage {
		k.say("storage is memory", "a restart of the server loses all that was not yet received", "make the stream again with file storage")
	}
	if cfg.NoAck {
		k.say("acknowledgements are off (no_ack)", "a publisher never learns that a message was stored, and sends it for ever", k.edit("--ack"))
	}
	if cfg.Sealed {
		k.say("it is sealed", "it takes no more messages", "make the stream again")
	}
	if cfg.Mirror != nil || len(cfg.Sources) > 0 || topic.Topic == "" {
		return // it gets its messages elsewhere; what they are called there is not ours to know
	}
	covered := false
	for _, s := range cfg.Subjects {
		covered = covered || covers(s, subjects)
	}
	if transformed := cfg.SubjectTransform != nil; !covered && !transformed {
		k.say(fmt.Sprintf("its subjects %s do not cover %s", strings.Join(cfg.Subjects, ", "), subjects),
			"messages published there are not stored", k.edit("--subjects "+subjects))
	}
	others := []string{topic.Topic + ".control.*.*", topic.AllSchemas()}
	if kind == "schemas" {
		others[1] = topic.AllFrames()
	}
	for _, s := range cfg.Subjects {
		for _, other := range others {
			if overlap(s, other) {
				k.say(fmt.Sprintf("its subject %s overlaps %s", s, other), "it stores, and answers, messages that are not meant for it",
					k.edit("--subjects "+subjects))
			}
		}
	}
}

func hours(d time.Duration) string { return fmt.Sprintf("%dh", int((d+time.Hour-1)/time.Hour)) }

// covers tells whether every subject that filter matches is matched by pattern.
func covers(pattern, filter string) bool {
	p, f := strings.Split(pattern, "."), strings.Split(filter, ".")
	for i, t := range p {
		if t == ">" {
			return len(f) > i
		}
		if i >= len(f) || f[i] == ">" || (t != "*" && t != f[i]) {
			return false
		}
	}
	return len(p) == len(f)
}

// overlap tells whether some subject is matched by both patterns.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		if x[i] == ">" || y[i] == ">" {
			return true
		}
		if x[i] != "*" && y[i] != "*" && x[i] != y[i] {
			return false
		}
	}
	return len(x) == len(y)
}
