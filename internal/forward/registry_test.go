package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/spool"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// schemasStored counts how often each schema was stored.
func (h *hub) schemasStored() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := map[string]int{}
	for _, s := range h.stored {
		if rest, ok := strings.CutPrefix(s, "schemas.dc1."); ok {
			n[strings.Fields(rest)[0]]++
		}
	}
	return n
}

// start runs the forwarder until the test ends.
func (b *bench) start() {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error)
	go func() { done <- b.f.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
}

func (b *bench) schemas(want string) {
	b.t.Helper()
	synctest.Wait()
	if got := fmt.Sprint(b.hub.schemasStored()); got != "map["+want+"]" {
		b.t.Errorf("schemas stored %s, want %s", got, want)
	}
}

func TestSchemasComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.appendWith("a", "s1", "s2")
		b.appendWith("b", "s1")
		b.appendWith("c", "s3")
		b.drain()
		want := "schemas.dc1.s1 schema s1|schemas.dc1.s2 schema s2|schemas.dc1.s3 schema s3|frames.dc1.live a|frames.dc1.live b|frames.dc1.live c"
		if got := strings.Join(b.hub.stored, "|"); got != want {
			t.Errorf("stored %s", got)
		}
		b.metric("forward_stored_schemas_total", 3)
	})
}

func TestSchemaNotStoredHoldsItsMessages(t *testing.T) {
	for name, answer := range map[string]error{
		"unknown": errors.New("no answer"), "refused": stream.ErrRefused,
		"permission": &stream.PermissionError{Operation: "publish", Subject: schemasSubject + "s1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{})
				b.hub.answer = func(subject string, _ []byte) (bool, error) {
					if strings.HasPrefix(subject, schemasSubject) && answer != nil {
						return false, answer
					}
					return true, nil
				}
				b.start()
				b.appendWith("a", "s1")
				time.Sleep(10 * time.Minute)
				if got := b.hub.messages(); len(got) != 0 {
					t.Fatalf("stored %q before their schema", got)
				}
				b.logged("msg=", 1)
				if !strings.Contains(b.log.String(), schemasSubject+"s1") {
					t.Errorf("the log does not name the subject:\n%s", b.log.String())
				}
				b.hub.change(func() { answer = nil })
				time.Sleep(time.Minute)
				if got := b.hub.messages(); len(got) != 1 {
					t.Errorf("stored %q after it was mended", got)
				}
			})
		})
	}
}

func TestSchemaTooLargeDoesNotStopTheSite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.hub.answer = func(subject string, _ []byte) (bool, error) {
			if subject == schemasSubject+"huge" {
				return false, fmt.Errorf("%w: 2 MB, limit 1 MB", stream.ErrTooLarge)
			}
			return true, nil
		}
		b.appendWith("a", "huge", "s1")
		b.appendWith("b", "huge")
		b.appendWith("c", "s1")
		b.drain()
		if got := strings.Join(b.hub.messages(), ""); got != "abc" {
			t.Errorf("stored %q", got)
		}
		b.metric("forward_aside_schemas_total", 1)
		b.logged("cannot store a schema", 1)
	})
}

func TestLiveSchemasAreStoredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.spool.SetLive([]string{"s1"})
		b.start()
		b.appendWith("a", "s1")
		b.appendWith("b", "s2")
		time.Sleep(time.Minute)
		b.schemas("s1:1 s2:1")

		// A reconnect, then another soon after: the second is served when five minutes have passed.
		fail := func() {
			failed := false
			b.hub.change(func() {
				b.hub.answer = func(string, []byte) (bool, error) {
					if failed {
						return true, nil
					}
					failed = true
					return false, stream.ErrDisconnected
				}
			})
			b.append("x")
			time.Sleep(time.Second)
		}
		time.Sleep(10 * time.Minute)
		fail()
		b.schemas("s1:2 s2:1")
		fail()
		b.schemas("s1:2 s2:1")
		time.Sleep(5 * time.Minute)
		b.schemas("s1:3 s2:1")

		time.Sleep(24 * time.Hour)
		b.schemas("s1:4 s2:1")
	})
}

// link is a publisher that tells how often its connection came back.
type link struct {
	*hub
	connections atomic.Uint64
}

func (l *link) Connections() uint64 { return l.connections.Load() }

// Parents are stored before the schemas that are changes of them, and again with a new one after a reconnect, which may have
// led to another hub; what needs nothing new does not wait for that.
func TestParentsOfSchemas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		l := &link{hub: b.hub}
		b.f.publisher = l
		b.start()
		schema := func(id, parent string) spool.Schema {
			return spool.Schema{ID: id, Parent: parent, Subject: schemasSubject + id, Message: []byte("schema " + id)}
		}
		send := func(message, id string, given ...spool.Schema) {
			t.Helper()
			if err := b.spool.Append(spool.Record{Subject: framesSubject, Message: []byte(message), Schemas: []string{id}}, given...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		b.spool.SetLive([]string{"s2"})
		send("a", "s2", schema("s2", "s1"), schema("s1", ""))
		want := "schemas.dc1.s1 schema s1|schemas.dc1.s2 schema s2|frames.dc1.live a"
		if got := strings.Join(b.hub.all(), "|"); got != want {
			t.Errorf("stored %s, want %s", got, want)
		}
		l.connections.Add(1)
		send("b", "s2")
		b.schemas("s1:1 s2:1")
		b.spool.SetLive([]string{"s3"})
		send("c", "s3", schema("s3", "s2"), schema("s2", "s1"), schema("s1", ""))
		b.schemas("s1:2 s2:2 s3:1")
		if got := strings.Join(b.hub.all()[4:], "|"); got != "schemas.dc1.s1 schema s1|schemas.dc1.s2 schema s2|schemas.dc1.s3 schema s3|frames.dc1.live c" {
			t.Errorf("stored %s at the end", got)
		}
		b.spool.SetLive([]string{"s4"})
		send("d", "s4", schema("s4", "s3"), schema("s3", "s2"), schema("s2", "s1"), schema("s1", ""))
		b.schemas("s1:2 s2:2 s3:1 s4:1")
		time.Sleep(5 * time.Minute)
		b.schemas("s1:3 s2:3 s3:2 s4:2")
	})
}

// What is remembered of schemas that come and go is bounded; one that comes back is stored again.
func TestManySchemas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.f.registry.most = 3
		b.spool.SetLive([]string{"s1"})
		b.start()
		for _, id := range []string{"s1", "s2", "s3", "s4", "s1", "s2"} {
			b.appendWith("m", id)
			time.Sleep(time.Second)
		}
		b.schemas("s1:1 s2:2 s3:1 s4:1")
	})
}

func TestSequenceGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		b.spool.SetLive([]string{"s1"})
		b.start()
		b.appendWith("a", "s1")
		b.appendWith("b", "s2")
		time.Sleep(2 * time.Minute)
		b.schemas("s1:1 s2:1")
		b.hub.change(func() { b.hub.sequence = 0 })
		b.append("c")
		time.Sleep(time.Second)
		b.schemas("s1:2 s2:1")
		b.appendWith("d", "s2")
		time.Sleep(time.Second)
		b.schemas("s1:2 s2:2")
		b.logged("sequence went back", 1)
	})
}

// A spool that lost a schema lets its messages go after all, and says so.
func TestSchemaMissingInTheSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := spool.NewMemory(spool.MemoryOptions{})
		b := newBench(t, Config{Spool: forgetful{memory, new(atomic.Bool)}})
		b.spool = memory
		b.appendWith("a", "s1")
		b.appendWith("b", "s2")
		b.drain()
		if got := strings.Join(b.hub.messages(), ""); got != "ab" {
			t.Errorf("stored %q", got)
		}
		b.schemas("s2:1")
		b.logged("cannot store a schema", 1)
	})
}

// A schema that the spool lost is stored once the poller has given it again.
func TestSchemaMissingForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := spool.NewMemory(spool.MemoryOptions{})
		var found atomic.Bool
		b := newBench(t, Config{Spool: forgetful{memory, &found}})
		b.spool = memory
		b.start()
		b.appendWith("a", "s1")
		time.Sleep(time.Minute)
		b.logged("cannot store a schema", 1)
		found.Store(true)
		b.appendWith("b", "s1")
		time.Sleep(time.Second)
		b.schemas("s1:1")
		if got := strings.Join(b.hub.messages(), ""); got != "ab" {
			t.Errorf("stored %q", got)
		}
	})
}

// forgetful has lost the schema s1, until it is found again.
type forgetful struct {
	*spool.Memory
	found *atomic.Bool
}

func (f forgetful) Schema(id string) (spool.Schema, error) {
	if id == "s1" && !f.found.Load() {
		return spool.Schema{}, spool.ErrNoSchema
	}
	return f.Memory.Schema(id)
}

// A spool that cannot be read is tried again, and nothing is sent twice for it.
func TestSpoolCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := spool.NewMemory(spool.MemoryOptions{})
		var broken atomic.Bool
		broken.Store(true)
		b := newBench(t, Config{Spool: brokenSpool{memory, &broken}})
		b.spool = memory
		b.append("a")
		b.start()
		time.Sleep(time.Minute)
		b.logged("cannot read the spool", 1)
		b.metric("forward_blocked", 1)
		broken.Store(false)
		time.Sleep(10 * time.Second)
		if got := b.hub.messages(); len(got) != 1 {
			t.Errorf("stored %q", got)
		}
	})
}

type brokenSpool struct {
	*spool.Memory
	broken *atomic.Bool
}

func (s brokenSpool) Read(ctx context.Context, after spool.Position, max int) ([]spool.Entry, error) {
	if s.broken.Load() {
		return nil, errors.New("input/output error")
	}
	return s.Memory.Read(ctx, after, max)
}
