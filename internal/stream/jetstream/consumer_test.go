package jetstream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/nats-io/nats.go/jetstream"
)

// bench is a server with streams, a connection and a ready publisher.
type bench struct {
	s   *testServer
	c   *Conn
	o   Options
	p   *Publisher
	log *logBuffer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{s: newTestServer(t, contractConfig), log: &logBuffer{}}
	b.o = b.s.options("all")
	b.o.Logger = b.log.logger()
	b.c = connect(t, b.o)
	ensure(t, b.c)
	b.p = publisher(t, b.c, live)
	if err := b.p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) consumer(t *testing.T, o ConsumerOptions) *Consumer {
	t.Helper()
	r, err := b.c.Consumer(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (b *bench) ackPending(t *testing.T) int {
	t.Helper()
	info, err := b.c.consumerInfo(short(t), "sink")
	if err != nil {
		t.Fatal(err)
	}
	return info.NumAckPending
}

func complete(p *tap, count int) func() bool {
	return func() bool {
		sequences, _ := p.seen(stream.Delivered)
		slices.Sort(sequences)
		return len(slices.Compact(sequences)) >= count
	}
}

// Two receivers on one durable are noticed and explained; when one stops, the other gets everything.
func TestSharedDurable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.consumer(t, ConsumerOptions{Durable: "sink", Create: true})
	two, err := connect(t, b.s.options("all")).Consumer(ConsumerOptions{Durable: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	one.pause, two.pause = 300*time.Millisecond, 300*time.Millisecond
	got := listen(t, one, false)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if _, err := two.Open(short(t)); err != nil {
		t.Fatal(err)
	}
	other, ended := &tap{}, make(chan error, 1)
	go func() { ended <- two.Receive(ctx, other.take) }()
	count := 0
	shared := func() bool {
		store(t, b.p, live, 5)
		count += 5
		return value(t, b.o.Registerer, "prometheus_streams_consumer_shared_total", "sink") > 0
	}
	eventually(t, shared, func() string { return "two receivers on one durable went unnoticed" })
	b.log.wait(t, "another receiver uses the same consumer", "consumer=sink", "stream=DEMO")
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	store(t, b.p, live, 5)
	last := uint64(count + 5)
	eventually(t, func() bool { s, _ := got.seen(stream.Delivered); return slices.Contains(s, last) }, func() string { return "it did not go on alone" })
	mine, paused := got.seen(stream.Disconnected)
	theirs, _ := other.seen(stream.Delivered)
	all := slices.Concat(mine, theirs)
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != int(last) {
		t.Errorf("of %d messages the two got %d", last, len(all))
	}
	if _, resumed := got.seen(stream.Connected); paused == 0 || resumed != paused {
		t.Errorf("the pause was told %d times, its end %d times", paused, resumed)
	}
}

// One delivery that went elsewhere, as to a request that a dead process left open, is asked for again without alarm.
func TestLostDelivery(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	got := listen(t, b.consumer(t, ConsumerOptions{Durable: "sink", Create: true}), false)
	store(t, b.p, live, 5)
	eventually(t, complete(got, 5), func() string { return "nothing came" })
	// A request of another connection, which takes one message of the next ones.
	other := connect(t, b.s.options("all"))
	if _, err := other.link.waitUp(short(t)); err != nil {
		t.Fatal(err)
	}
	inbox := other.nats().NewInbox()
	sub, err := other.nats().SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // requests take turns, so one of two messages at most is ours
		if err := other.nats().PublishRequest("$JS.API.CONSUMER.MSG.NEXT.DEMO.sink", inbox, []byte(`{"batch":1,"expires":5000000000}`)); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.nats().Flush(); err != nil {
		t.Fatal(err)
	}
	stolen := 0
	for total := 5; stolen == 0 && total < 50; {
		store(t, b.p, live, 1)
		total++
		if _, err := sub.NextMsg(50 * time.Millisecond); err == nil {
			stolen++
		}
	}
	if stolen == 0 {
		t.Fatal("no message went elsewhere")
	}
	other.Close()
	store(t, b.p, live, 5)
	info, err := b.c.streamInfo(short(t), "DEMO")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, complete(got, int(info.State.LastSeq)), func() string { return "what went elsewhere did not come again:\n" + b.log.String() })
	eventually(t, func() bool { return b.ackPending(t) == 0 }, func() string { return "something is left unacknowledged" })
	if n := value(t, b.o.Registerer, "prometheus_streams_consumer_shared_total", "sink"); n != 0 {
		t.Errorf("%v alarms", n)
	}
	if n := value(t, b.o.Registerer, "prometheus_streams_consumer_restarts_total", "sink", "jump"); n != 1 {
		t.Errorf("%v restarts by jumps", n)
	}
}

// What is worked on for longer than AckWait is not handed out twice, and can still be acknowledged.
func TestHeldLong(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	got := listen(t, b.consumer(t, ConsumerOptions{Durable: "sink", Create: true, AckWait: 500 * time.Millisecond}), true)
	store(t, b.p, live, 10)
	eventually(t, complete(got, 10), func() string { return "nothing came" })
	time.Sleep(1500 * time.Millisecond) // the server delivers all of it again, twice
	if n := got.delivered(); n != 10 {
		t.Errorf("%d deliveries of 10 messages", n)
	}
	got.mu.Lock()
	for _, e := range got.events {
		if e.Kind == stream.Delivered {
			if err := e.Message.Ack(); err != nil {
				t.Error(err)
			}
		}
	}
	got.mu.Unlock()
	eventually(t, func() bool { return b.ackPending(t) == 0 }, func() string { return "late acknowledgements were lost" })
	info, err := b.c.consumerInfo(short(t), "sink")
	if err != nil || info.AckFloor.Stream != 10 {
		t.Errorf("%+v, %v", info, err)
	}
}

// An acknowledgement of before a restart does nothing: the message comes again.
func TestStaleAck(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	got := listen(t, b.consumer(t, ConsumerOptions{Durable: "sink", Create: true}), true)
	store(t, b.p, live, 3)
	eventually(t, complete(got, 3), func() string { return "nothing came" })
	b.s.stop(t)
	b.s.start(t)
	eventually(t, func() bool { return got.delivered() == 6 }, func() string { return "what was not acknowledged did not come again" })
	sequences, restarts := got.seen(stream.Restarted)
	if !slices.Equal(sequences, []uint64{1, 2, 3, 1, 2, 3}) || restarts != 2 {
		t.Errorf("%v with %d restarts", sequences, restarts)
	}
	var messages []*stream.Message
	got.mu.Lock()
	for _, e := range got.events {
		if e.Kind == stream.Delivered {
			messages = append(messages, e.Message)
		}
	}
	got.mu.Unlock()
	for _, m := range messages[:3] {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if n := b.ackPending(t); n != 3 {
		t.Errorf("%d are pending after stale acknowledgements, want 3", n)
	}
	for _, m := range messages[3:] {
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() bool { return b.ackPending(t) == 0 }, func() string { return "acknowledgements were lost" })
}

// A durable that is deleted under us is said and made again behind what was acknowledged.
func TestDurableDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.consumer(t, ConsumerOptions{Durable: "sink", Create: true})
	store(t, b.p, live, 10)
	got := listen(t, r, false)
	eventually(t, complete(got, 10), func() string { return "nothing came" })
	eventually(t, func() bool { return b.ackPending(t) == 0 }, func() string { return "unacknowledged" })
	if lag, err := r.Info(short(t)); err != nil || lag.Floor != 10 || lag.Pending != 0 || lag.AckPending != 0 || r.Pending() != 0 {
		t.Errorf("%+v, %v, pending %d", lag, err, r.Pending())
	}
	if err := b.c.call(short(t), "CONSUMER.DELETE.DEMO.sink", nil, nil); err != nil {
		t.Fatal(err)
	}
	b.log.wait(t, "the consumer or its stream is gone")
	store(t, b.p, live, 5)
	eventually(t, complete(got, 15), func() string { return "it did not go on:\n" + b.log.String() })
	b.log.wait(t, "receiving again")
}

// A stream that is deleted and made anew is said, and received from its start.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	got := listen(t, b.consumer(t, ConsumerOptions{Durable: "sink", Create: true}), false)
	f := b.c.Follow(time.Time{}, "")
	if _, err := f.Open(short(t)); err != nil {
		t.Fatal(err)
	}
	followed := &tap{}
	go f.Receive(t.Context(), followed.take) //nolint:errcheck // it ends with the test
	store(t, b.p, live, 10)
	eventually(t, complete(got, 10), func() string { return "nothing came" })
	eventually(t, complete(followed, 10), func() string { return "nothing was followed" })
	if err := b.c.call(short(t), "STREAM.DELETE.DEMO", nil, nil); err != nil {
		t.Fatal(err)
	}
	b.log.wait(t, "receiving stopped", "no such stream")
	ensure(t, b.c)
	if err := b.p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	store(t, b.p, live, 4)
	eventually(t, func() bool { return got.delivered() == 14 && followed.delivered() == 14 }, func() string { return "it did not go on:\n" + b.log.String() })
	if s, restarts := followed.seen(stream.Restarted); restarts != 1 || !slices.Equal(s[10:], []uint64{1, 2, 3, 4}) {
		t.Errorf("followed %v with %d restarts", s, restarts)
	}
}

// A durable that would lose messages is refused at once, with what is wrong with it.
func TestUnusableDurable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, tt := range map[string]struct {
		cfg  jetstream.ConsumerConfig
		want string
	}{
		"acks-all":    {jetstream.ConsumerConfig{AckPolicy: jetstream.AckAllPolicy}, "acknowledgement policy"},
		"gives-up":    {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 3, FilterSubject: "demo.frames.*.*"}, "after 3 deliveries"},
		"other":       {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "demo.frames.edge.*"}, "filter"},
		"pushes":      {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, DeliverSubject: "pushed"}, "push consumer"},
		"headersonly": {jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, HeadersOnly: true, FilterSubject: "demo.frames.*.*"}, "headers only"},
	} {
		tt.cfg.Name, tt.cfg.Durable = name, name
		if _, err := b.c.createConsumer(short(t), tt.cfg); err != nil {
			t.Fatal(name, err)
		}
		_, err := b.consumer(t, ConsumerOptions{Durable: name, Create: true}).Open(short(t))
		if !errors.Is(err, errConflict) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err := b.c.EnsureDurable(short(t), name, "", true); !errors.Is(err, errConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.c.Consumer(ConsumerOptions{Durable: "a.b"}); err == nil {
		t.Error("a name with a dot was taken")
	}
}

// A durable that is absent and may not be created is waited for.
func TestOpenWaits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.consumer(t, ConsumerOptions{Durable: "sink"})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Open(ctx); !errors.Is(err, ErrNoConsumer) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("opening what is not there: %v", err)
	}
	opened := make(chan error, 1)
	ctx = short(t)
	go func() { _, err := r.Open(ctx); opened <- err }()
	b.log.wait(t, "receiving has to wait", "no such consumer", "check stream --create")
	if err := b.c.EnsureDurable(short(t), "sink", "", true); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	info, err := b.c.consumerInfo(short(t), "sink")
	if err != nil || info.Config.MaxAckPending != 20000 || info.Config.AckWait != 30*time.Second || info.Config.AckPolicy != jetstream.AckExplicitPolicy {
		t.Errorf("%+v, %v", info, err)
	}
}

// A message larger than a request's usual bytes is delivered all the same.
func TestLargePayload(t *testing.T) {
	t.Parallel()
	s := newTestServer(t, contractConfig)
	s.stop(t)
	s.payload = 16 << 20
	s.start(t)
	c := connect(t, s.options("all"))
	ensure(t, c)
	p := publisher(t, c, live)
	if err := p.Ready(short(t)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if r := result(t, p.Publish(live, make([]byte, 10<<20))); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	r, err := c.Consumer(ConsumerOptions{Durable: "sink", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	got := listen(t, r, false)
	eventually(t, complete(got, 3), func() string { return "large messages do not come" })
}
