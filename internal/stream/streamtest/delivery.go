package streamtest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

func testOrder(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	a, b := c.sender(t, p, "edge-a"), c.sender(t, p, "edge-b")
	for range 10 {
		a.mustSend(t, 10)
		b.mustSend(t, 5)
	}
	r := receive(t, p.Consumer(t, "order"))
	next := map[string]int{}
	var last uint64
	for range 150 {
		m := r.message(t)
		if m.Sequence <= last {
			t.Fatalf("message %d comes after %d", m.Sequence, last)
		}
		last = m.Sequence
		name, n := parse(t, m)
		if n != next[name]+1 {
			t.Fatalf("%s: %d comes after %d", name, n, next[name])
		}
		if m.Redelivered || m.Stored.IsZero() || time.Since(m.Stored).Abs() > time.Minute {
			t.Errorf("message %d: redelivered %v, stored %v", m.Sequence, m.Redelivered, m.Stored)
		}
		next[name]++
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	if next[a.name] != 100 || next[b.name] != 50 {
		t.Errorf("received %v", next)
	}
}

// testCrash is the case that acknowledging "all up to here" fails: the second process must get all that the first did
// not acknowledge, in order, before or among what is new.
func testCrash(t *testing.T, c *Carrier) {
	first := c.Start(t)
	s := c.sender(t, first, "edge")
	s.mustSend(t, 10)
	r := receive(t, first.Consumer(t, "crash"))
	if got := r.numbers(t, 10, func(n int) bool { return n == 3 || n == 5 }); !slices.Equal(got, sequence(1, 10)) {
		t.Fatalf("first process got %v", got)
	}
	r.stop(t)
	first.Die()

	second := c.Start(t)
	s2 := &sender{p: second.Publisher(t, s.subject), subject: s.subject, name: s.name, sent: s.sent}
	ready(t, s2.p)
	s2.mustSend(t, 10)
	r = receive(t, second.Consumer(t, "crash"))
	got := r.numbers(t, 20, always)
	r.stop(t)
	second.Die()
	if !slices.IsSorted(got) {
		t.Errorf("second process got its messages out of order: %v", got)
	}
	for n := 1; n <= 20; n++ {
		if n != 3 && n != 5 && !slices.Contains(got, n) {
			t.Errorf("message %d is lost: second process got %v", n, got)
		}
	}

	third := c.Start(t) // to which nothing is left but what is new
	defer third.Die()
	s3 := &sender{p: third.Publisher(t, s.subject), subject: s.subject, name: s.name, sent: 20}
	ready(t, s3.p)
	s3.mustSend(t, 1)
	if got := receive(t, third.Consumer(t, "crash")).numbers(t, 21, always); !slices.Equal(got, []int{21}) {
		t.Errorf("third process got %v, all before 21 was acknowledged", got)
	}
}

func testRestart(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	s := c.sender(t, p, "edge")
	r := receive(t, p.Consumer(t, "restart"))
	const count = 400
	sending := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		for range count / 20 {
			if err := s.send(ctx, 20); err != nil {
				sending <- err
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		sending <- nil
	}()
	seen, kinds := map[int]int{}, map[stream.EventKind]int{}
	last, restarts := 0, 0
	for len(seen) < count {
		e := r.event(t)
		kinds[e.Kind]++
		switch e.Kind {
		case stream.Restarted:
			last = 0
		case stream.Delivered:
			n := number(t, e.Message)
			if n > last+1 && last > 0 && seen[n-1] == 0 {
				t.Fatalf("message %d comes after %d, and %d has not come", n, last, n-1)
			}
			seen[n]++
			last = n
			if n%3 != 0 || seen[n] > 1 { // some are acknowledged late, if they come again
				if err := e.Message.Ack(); err != nil {
					last = 0 // the connection is gone, so it comes again
				}
			}
			if len(seen) == 100*(restarts+1) && restarts < 2 {
				restarts++
				c.Stop(t)
				time.Sleep(200 * time.Millisecond)
				c.Restart(t)
			}
		}
	}
	if err := <-sending; err != nil {
		t.Fatalf("sending: %v", err)
	}
	// A loss that is over before it can be told shows as a restart alone.
	if kinds[stream.Connected] != kinds[stream.Disconnected] || kinds[stream.Restarted] < 2 {
		t.Errorf("%d times disconnected, %d connected, %d restarted", kinds[stream.Disconnected], kinds[stream.Connected], kinds[stream.Restarted])
	}
}

func testResend(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	s := c.sender(t, p, "edge")
	data := body(s.name, 1)
	for range 3 {
		if r := publish(t, s.p, s.subject, data); r.Err != nil {
			t.Fatalf("the same bytes again: %v", r.Err)
		}
	}
	r := receive(t, p.Consumer(t, "resend"))
	if m := r.message(t); string(m.Data) != string(data) {
		t.Errorf("got %q", m.Data)
	}
}

func testBackPressure(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	s := c.sender(t, p, "edge")
	filler := strings.Repeat("x", 10000)
	count := 2 * c.Prefetch
	for n := 1; n <= count; {
		var results []<-chan stream.Result
		for ; len(results) < 64 && n <= count; n++ {
			results = append(results, s.p.Publish(s.subject, append(body(s.name, n), filler...)))
		}
		for _, ch := range results {
			if r, err := await(t.Context(), ch); err != nil || r.Err != nil {
				t.Fatal(err, r.Err)
			}
		}
	}
	r := receive(t, p.Consumer(t, "slow"))
	first := r.message(t) // and the handler blocks with the second
	if p.Unacknowledged != nil {
		time.Sleep(500 * time.Millisecond)
		if n := p.Unacknowledged(t, "slow"); n > c.Prefetch+2 || n < 2 {
			t.Errorf("%d of %d messages were fetched for a receiver that takes none, at most %d should be", n, count, c.Prefetch)
		}
	}
	if err := first.Ack(); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= count; n++ {
		m := r.message(t)
		if m.Sequence != first.Sequence+uint64(n-1) {
			t.Fatalf("message %d comes as number %d", m.Sequence, n)
		}
		if err := m.Ack(); err != nil {
			t.Fatal(err)
		}
	}
}

func testFloor(t *testing.T, c *Carrier) {
	if c.NoFloor {
		return
	}
	p := c.Start(t)
	defer p.Die()
	s := c.sender(t, p, "edge")
	s.mustSend(t, 10)
	r := receive(t, p.Consumer(t, "floor"))
	if f := r.floor; f.Sequence != 0 || f.Delivered != 0 || f.First != 1 || f.Last != 10 || f.Created.IsZero() || !f.Stored.IsZero() {
		t.Errorf("floor of a new consumer: %+v", f)
	}
	created := r.floor.Created
	var stored time.Time
	for n := 1; n <= 8; n++ {
		m := r.message(t)
		if n == 6 {
			stored = m.Stored
		}
		if n <= 6 {
			if err := m.Ack(); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.stop(t)
	p.Die()
	p = c.Start(t)
	defer p.Die()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := p.Consumer(t, "floor").Open(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if f.Sequence != 6 || f.Delivered < 8 || f.First != 1 || f.Last != 10 || !f.Created.Equal(created) || !f.Stored.Equal(stored) {
		t.Errorf("floor after six acknowledgements: %+v, want sequence 6 stored %v in the stream of %v", f, stored, created)
	}
}
