package streamtest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choria-io/prometheus-streams/internal/stream"
)

func testRefusals(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	s := c.sender(t, p, "edge")
	if c.Largest > 0 {
		err := publish(t, s.p, s.subject, make([]byte, c.Largest+1)).Err
		if !errors.Is(err, stream.ErrTooLarge) || !strings.Contains(err.Error(), strconv.Itoa(c.Largest+1)) ||
			!strings.Contains(err.Error(), strconv.Itoa(c.Largest)) {
			t.Errorf("a message of %d bytes: %v; wanted an error with both numbers", c.Largest+1, err)
		}
		if r := publish(t, s.p, s.subject, make([]byte, c.Largest)); r.Err != nil {
			t.Errorf("a message of %d bytes: %v", c.Largest, r.Err)
		}
	}
	if c.Denied != "" {
		subject, began := c.Subjects.Frames(c.Denied, "live"), time.Now()
		err := publish(t, s.p, subject, []byte("x")).Err
		var denied *stream.PermissionError
		if !errors.As(err, &denied) || !errors.Is(err, stream.ErrPermission) || denied.Subject != subject || denied.Operation != "publish" {
			t.Errorf("publishing where it is denied: %v", err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("the denial was noticed after %s", d)
		}
	}
	s.mustSend(t, 3) // none of it disturbs the others
}

func testRegistry(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	if p.Schema == nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one, two := c.Subjects.Schema("edge", [16]byte{1}), c.Subjects.Schema("edge.with dots", [16]byte{2})
	pub := p.Publisher(t, one, two)
	ready(t, pub)
	for _, subject := range []string{one, two} {
		for _, text := range []string{"old", "new " + subject} {
			if r := publish(t, pub, subject, []byte(text)); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		if got, err := p.Schema(ctx, subject); err != nil || string(got) != "new "+subject {
			t.Errorf("%s: %q, %v", subject, got, err)
		}
	}
	if _, err := p.Schema(ctx, c.Subjects.Schema("edge", [16]byte{3})); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a schema that is not there: %v", err)
	}
	c.Stop(t)
	if _, err := p.Schema(ctx, one); err == nil || errors.Is(err, stream.ErrNotFound) {
		t.Errorf("without a server: %v; that says nothing about the schema", err)
	}
	c.Restart(t)
}

func testReadBack(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	if p.Read == nil {
		return
	}
	a, b := c.sender(t, p, "edge-a"), c.sender(t, p, "edge-b")
	a.mustSend(t, 300) // sequences 1 to 300: more than one batch
	time.Sleep(5 * time.Millisecond)
	from := time.Now()
	time.Sleep(5 * time.Millisecond)
	b.mustSend(t, 10) // 301 to 310
	a.mustSend(t, 10) // 311 to 320
	tests := []struct {
		name  string
		r     stream.Range
		first uint64
		count int
	}{
		{"all", stream.Range{To: 320}, 1, 320},
		{"beyond the end", stream.Range{To: 1000}, 1, 320},
		{"up to", stream.Range{To: 280}, 1, 280},
		{"since", stream.Range{From: from, To: 320}, 301, 20},
		{"since, of one subject", stream.Range{From: from, To: 318, Subject: a.subject}, 311, 8},
		{"of one subject", stream.Range{To: 312, Subject: a.subject}, 1, 302},
		{"nothing", stream.Range{To: 0}, 0, 0},
		{"in the future", stream.Range{From: from.Add(time.Hour), To: 320}, 0, 0},
		{"of an unknown subject", stream.Range{To: 320, Subject: c.Subjects.Frames("nobody", "live")}, 0, 0},
	}
	for _, tt := range tests {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var got []uint64
		err := p.Read(ctx, tt.r, func(m stream.Message) error {
			number(t, &m)
			if m.Stored.IsZero() || m.Ack() != nil || m.InProgress() != nil {
				t.Errorf("%s: message %d lacks something", tt.name, m.Sequence)
			}
			got = append(got, m.Sequence)
			return nil
		})
		cancel()
		if err != nil || len(got) != tt.count || !slices.IsSorted(got) || (tt.count > 0 && got[0] != tt.first) {
			t.Errorf("%s: %d messages from %v on, %v; want %d from %d on", tt.name, len(got), got[:min(1, len(got))], err, tt.count, tt.first)
		}
	}
	stop := errors.New("enough")
	if err := p.Read(t.Context(), stream.Range{To: 320}, func(stream.Message) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a handler's error came back as %v", err)
	}
	if err := p.Read(t.Context(), stream.Range{To: 320}, func(stream.Message) error { return stream.ErrNotFound }); !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("a handler's error came back as %v", err)
	}
}

func testFollow(t *testing.T, c *Carrier) {
	p := c.Start(t)
	defer p.Die()
	if p.Follow == nil {
		return
	}
	s := c.sender(t, p, "edge")
	s.mustSend(t, 10)
	time.Sleep(5 * time.Millisecond)
	from := time.Now()
	time.Sleep(5 * time.Millisecond)
	s.mustSend(t, 10)
	r := receive(t, p.Follow(t, from))
	if !c.NoFloor && (r.floor.Sequence != 10 || r.floor.Last != 20) {
		t.Errorf("floor: %+v", r.floor)
	}
	if got := r.numbers(t, 20, always); !slices.Equal(got, sequence(11, 20)) {
		t.Errorf("since the middle: %v", got)
	}
	c.Stop(t)
	c.Restart(t)
	s.mustSend(t, 10)
	var got []int
	for len(got) < 10 {
		e := r.event(t)
		if e.Kind == stream.Restarted {
			t.Error("restarted, though nothing repeats")
		}
		if e.Kind == stream.Delivered {
			got = append(got, number(t, e.Message))
		}
	}
	// The sender may have stored some twice around the restart.
	if got[0] != 21 || !slices.IsSorted(got) {
		t.Errorf("after a restart of the server: %v", got)
	}
	if all := receive(t, p.Follow(t, time.Time{})).numbers(t, 20, never); !slices.Equal(all, sequence(1, 20)) {
		t.Errorf("from the start: %v", all)
	}
}
