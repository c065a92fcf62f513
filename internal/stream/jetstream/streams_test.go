package jetstream

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

func TestEnsureStreams(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	c := connect(t, s.options("all"))
	problems, err := c.EnsureStreams(short(t), StreamConfig{})
	if err != nil || len(problems) != 2 || !strings.Contains(problems[0].String(), "DEMO: it does not exist") || !strings.Contains(problems[1].String(), "DEMO_SCHEMAS: it does not exist") {
		t.Fatalf("absent and not created: %v, %v", problems, err)
	}
	ensure(t, c)
	ensure(t, c) // nothing is wrong with what we made, and nothing is made twice
	frames, err := c.streamInfo(short(t), "DEMO")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := frames.Config; cfg.MaxAge != 24*time.Hour || cfg.Storage != jetstream.FileStorage || cfg.Discard != jetstream.DiscardOld ||
		!cfg.AllowDirect || cfg.MaxBytes != -1 || cfg.Replicas != 1 || cfg.MaxMsgsPerSubject != -1 || cfg.Subjects[0] != "demo.frames.*.*" {
		t.Errorf("frames: %+v", cfg)
	}
	schemas, err := c.streamInfo(short(t), "DEMO_SCHEMAS")
	if err != nil {
		t.Fatal(err)
	}
	if cfg := schemas.Config; cfg.MaxAge != 72*time.Hour || cfg.MaxMsgsPerSubject != 1 || !cfg.AllowDirect || cfg.Subjects[0] != "demo.schemas.*.*" {
		t.Errorf("schemas: %+v", cfg)
	}
}

// What a server or its rights do not allow is a problem, not an error: everything else is still checked.
func TestEnsureStreamsRefused(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, `accounts { PROM { jetstream: { max_file: 1MB }, users: [
		{ user: all, password: all }
		{ user: looks, password: looks, permissions { publish { allow: ["$JS.API.STREAM.INFO.>"] } } }
		{ user: blind, password: blind, permissions { publish { allow: ["demo.>"] } } } ] } }`)
	for user, want := range map[string]string{
		"all": "the server refuses to create it", "looks": "no right to create it", "blind": "no right to look at it",
	} {
		problems, err := connect(t, s.options(user)).EnsureStreams(short(t), StreamConfig{Create: true, MaxBytes: 1 << 30})
		if err != nil || len(problems) == 0 || !strings.Contains(problems[0].String(), want) || problems[0].Fix == "" {
			t.Errorf("%s: %v, %v; want a problem %q", user, problems, err, want)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	c := connect(t, s.options("all"))
	if _, err := c.link.waitUp(short(t)); err != nil {
		t.Fatal(err)
	}
	good := jetstream.StreamConfig{Name: "DEMO", Subjects: []string{"demo.frames.*.*"}, MaxAge: time.Hour, Storage: jetstream.FileStorage, AllowDirect: true, MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1}
	want := StreamConfig{NeedAge: 30 * time.Minute}
	want.setDefaults()
	frames := []struct {
		change  func(*jetstream.StreamConfig)
		problem string
	}{
		{func(*jetstream.StreamConfig) {}, ""},
		{func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, ""},
		{func(c *jetstream.StreamConfig) { c.Subjects = []string{"other", "demo.frames.>"} }, ""},
		{func(c *jetstream.StreamConfig) { c.Subjects, c.Mirror = nil, &jetstream.StreamSource{Name: "X"} }, ""},
		{func(c *jetstream.StreamConfig) { c.MaxAge = 9 * time.Minute }, "two keyframe intervals (10m0s)"},
		{func(c *jetstream.StreamConfig) { c.MaxAge = 20 * time.Minute }, "configured max_age 30m0s"},
		{func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "direct get is not allowed"},
		{func(c *jetstream.StreamConfig) { c.Subjects = []string{"demo.frames.edge.*"} }, "do not cover demo.frames.*.*"},
		{func(c *jetstream.StreamConfig) { c.Subjects = []string{"demo.>"} }, "overlaps demo.control.*.*"},
		{func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, "demo.schemas.edge.*") }, "overlaps demo.schemas.*.*"},
		{func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 }, "max_msgs is 5"},
		{func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }, "max_msgs_per_subject is 1"},
		{func(c *jetstream.StreamConfig) { c.MaxMsgSize = 1000 }, "max_msg_size 1000 is less than the server's max_payload 1048576"},
		{func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, "max_bytes 1048576"},
		{func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "retention is"},
		{func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage is memory"},
		{func(c *jetstream.StreamConfig) { c.NoAck = true }, "no_ack"},
		{func(c *jetstream.StreamConfig) { c.Sealed = true }, "sealed"},
	}
	for _, tt := range frames {
		cfg := good
		tt.change(&cfg)
		expect(t, c.checkFrames(cfg, want), tt.problem)
	}
	registry := good
	registry.Name, registry.Subjects, registry.MaxAge, registry.MaxMsgsPerSubject = "DEMO_SCHEMAS", []string{"demo.schemas.*.*"}, 72*time.Hour, 1
	schemas := []struct {
		framesAge time.Duration
		change    func(*jetstream.StreamConfig)
		problem   string
	}{
		{24 * time.Hour, func(*jetstream.StreamConfig) {}, ""},
		{0, func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, ""},
		{24 * time.Hour, func(c *jetstream.StreamConfig) { c.MaxAge = 71 * time.Hour }, "it needs 72h0m0s"},
		{0, func(*jetstream.StreamConfig) {}, "as the frames have none"},
		{24 * time.Hour, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = -1 }, "max_msgs_per_subject is -1"},
		{24 * time.Hour, func(c *jetstream.StreamConfig) { c.MaxBytes = 1000 }, "max_bytes 1000"},
		{24 * time.Hour, func(c *jetstream.StreamConfig) { c.Subjects = []string{"demo.*.*.*"} }, "overlaps demo.frames.*.*"},
		{24 * time.Hour, func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "direct get is not allowed"},
	}
	for _, tt := range schemas {
		cfg := registry
		tt.change(&cfg)
		expect(t, c.checkSchemas(cfg, tt.framesAge), tt.problem)
	}
}

// expect wants one of the problems to say text, or none at all if that is empty; and each to say what mends it.
func expect(t *testing.T, problems []Problem, text string) {
	t.Helper()
	found := text == "" && len(problems) == 0
	for _, p := range problems {
		found = found || (text != "" && strings.Contains(p.String(), text))
		if p.What == "" || p.Why == "" || p.Fix == "" || p.Stream == "" {
			t.Errorf("incomplete: %+v", p)
		}
	}
	if !found {
		t.Errorf("got %v, want %q", problems, text)
	}
}

func TestSubjectSets(t *testing.T) {
	tests := []struct {
		pattern, filter string
		covers, overlap bool
	}{
		{"a.frames.*.*", "a.frames.*.*", true, true},
		{"a.>", "a.frames.*.*", true, true},
		{">", "a", true, true},
		{"a.>", "a", false, false},
		{"a.frames.x.*", "a.frames.*.*", false, true},
		{"a.frames.*", "a.frames.*.*", false, false},
		{"a.*.*.*", "a.frames.*.*", true, true},
		{"a.frames.*.*", "a.>", false, true},
		{"b.>", "a.frames.*.*", false, false},
		{"a.frames.*.*.*", "a.frames.*.*", false, false},
	}
	for _, tt := range tests {
		if got := covers(tt.pattern, tt.filter); got != tt.covers {
			t.Errorf("%s covers %s: %v", tt.pattern, tt.filter, got)
		}
		if got := overlap(tt.pattern, tt.filter); got != tt.overlap || overlap(tt.filter, tt.pattern) != got {
			t.Errorf("%s overlaps %s: %v", tt.pattern, tt.filter, got)
		}
	}
}

// A publisher that may only publish and a receiver that may create nothing get along with the rights that the manual
// gives them, and no others.
func TestRights(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, `accounts { PROM { jetstream: enabled, users: [
		{ user: all, password: all }
		{ user: edge1, password: edge1, permissions {
			publish { allow: ["demo.frames.edge1.>", "demo.schemas.edge1.>"] }
			subscribe { allow: ["_INBOX.edge1.>"] } } }
		{ user: recv, password: recv, permissions {
			publish { allow: ["$JS.API.CONSUMER.INFO.DEMO.*", "$JS.API.CONSUMER.MSG.NEXT.DEMO.*", "$JS.API.CONSUMER.RESET.DEMO.*", "$JS.ACK.DEMO.*.>",
				"$JS.API.STREAM.INFO.DEMO", "$JS.API.DIRECT.GET.DEMO", "$JS.API.DIRECT.GET.DEMO_SCHEMAS.>"] }
			subscribe { allow: ["_INBOX.recv.>"] } } } ] } }`)
	admin := connect(t, s.options("all"))
	ensure(t, admin)
	if err := admin.EnsureDurable(short(t), "sink", "", true); err != nil {
		t.Fatal(err)
	}
	with := func(user string) *Conn {
		o := s.options(user)
		o.InboxPrefix = "_INBOX." + user
		return connect(t, o)
	}
	names := stream.Subjects{Topic: "demo"}
	schema := names.Schema("edge1", [16]byte{1})
	edge := publisher(t, with("edge1"), names.Frames("edge1", "live"), schema)
	if err := edge.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	store(t, edge, schema, 1)
	store(t, edge, names.Frames("edge1", "live"), 20)
	var denied *stream.PermissionError
	if r := result(t, edge.Publish(names.Frames("edge2", "live"), nil)); !errors.As(r.Err, &denied) || denied.Subject != "demo.frames.edge2.live" {
		t.Errorf("speaking for another: %v", r.Err)
	}

	recv := with("recv")
	r, err := recv.Consumer(ConsumerOptions{Durable: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	got := listen(t, r, false)
	eventually(t, func() bool { return got.delivered() == 20 }, func() string { return "not all came" })
	count := 0
	if err := recv.Read(short(t), stream.Range{To: 20}, func(stream.Message) error { count++; return nil }); err != nil || count != 20 {
		t.Errorf("read back %d, %v", count, err)
	}
	if data, err := recv.Schema(short(t), schema); err != nil || string(data) != "x" {
		t.Errorf("schema: %q, %v", data, err)
	}
	if err := recv.EnsureDurable(short(t), "mine", "", true); !errors.Is(err, stream.ErrPermission) && !errors.Is(err, ErrNoConsumer) {
		t.Errorf("creating a durable: %v", err)
	}
	if _, err := recv.Schema(short(t), "demo.schemas.edge1.00"); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a schema that is not there: %v", err)
	}
}

// Who may not read the registry hears that, at once and not as "not found".
func TestSchemaDenied(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, `accounts { PROM { jetstream: enabled, users: [
		{ user: all, password: all }
		{ user: recv, password: recv, permissions { publish { deny: ["$JS.API.DIRECT.GET.>"] } } } ] } }`)
	ensure(t, connect(t, s.options("all")))
	c, began := connect(t, s.options("recv")), time.Now()
	if _, err := c.link.waitUp(short(t)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Schema(short(t), "demo.schemas.edge.00")
	if !errors.Is(err, stream.ErrPermission) || errors.Is(err, stream.ErrNotFound) || time.Since(began) > 4*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	err = c.Read(short(t), stream.Range{To: 10}, func(stream.Message) error { return nil })
	if !errors.Is(err, stream.ErrPermission) || time.Since(began) > 4*time.Second {
		t.Errorf("reading back, after %s: %v", time.Since(began), err)
	}
}

// Answers that cannot arrive are told apart from a server that does not answer.
func TestInboxDenied(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, `accounts { PROM { jetstream: enabled, users: [
		{ user: all, password: all }
		{ user: edge, password: edge, permissions { publish { allow: ["demo.>"] }, subscribe { allow: ["_INBOX.edge.>"] } } } ] } }`)
	ensure(t, connect(t, s.options("all")))
	var log logBuffer
	o := s.options("edge")
	o.Logger = log.logger()
	c := connect(t, o)
	ctx := short(t)
	go publisher(t, c, live).Ready(ctx) //nolint:errcheck // it is the log that matters
	log.wait(t, "permission to subscribe", "set inbox_prefix")
	p, began := publisher(t, c), time.Now()
	r := result(t, p.Publish(live, []byte("x")))
	if !errors.Is(r.Err, stream.ErrPermission) || time.Since(began) > 4*time.Second {
		t.Errorf("publishing, after %s: %v", time.Since(began), r.Err)
	}
}
