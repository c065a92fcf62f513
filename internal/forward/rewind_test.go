package forward

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/spool"
)

// keeper is a spool that keeps what was trimmed.
type keeper struct {
	*spool.Memory
	floor spool.Position
}

func (k *keeper) Trim(upTo spool.Position) error {
	k.floor = max(k.floor, upTo)
	return nil
}

func (k *keeper) Read(ctx context.Context, after spool.Position, most int) ([]spool.Entry, error) {
	return k.Memory.Read(ctx, max(after, k.floor), most)
}

func (k *keeper) Rewind() spool.Position {
	k.floor = 1 // the first is no longer there
	return k.floor
}

// A stream that comes back with a lower sequence has lost what it acknowledged: what the spool still has is sent again.
func TestRewind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keeper{Memory: spool.NewMemory(spool.MemoryOptions{})}
		b := newBench(t, Config{Spool: k})
		b.spool = k.Memory
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.f.Run(ctx) }()
		b.append("a", "b", "c")
		time.Sleep(time.Second)
		b.hub.change(func() { b.hub.stored, b.hub.sequence = nil, 0 })
		b.append("d")
		time.Sleep(time.Second)
		if got := strings.Join(b.hub.messages(), " "); got != "d b c d" {
			t.Errorf("stored %q", got)
		}
		if !strings.Contains(b.log.String(), "sending again what the stream had acknowledged") {
			t.Error("nothing was said")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// reconnecting is a hub whose connection comes back.
type reconnecting struct {
	*hub
	times uint64
}

func (r *reconnecting) Connections() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times
}

// After a reconnect the schemas in use are stored again, also if nothing was on its way, at most every five minutes.
func TestReconnectWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Config{})
		r := &reconnecting{hub: b.hub}
		b.f.publisher = r
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.f.Run(ctx) }()
		b.spool.SetLive([]string{"s1"})
		b.appendWith("a", "s1")
		time.Sleep(time.Second)
		schemas := func() (n int) {
			b.hub.mu.Lock()
			defer b.hub.mu.Unlock()
			for _, s := range b.hub.stored {
				if strings.HasPrefix("t."+s, schemasSubject) {
					n++
				}
			}
			return n
		}
		if n := schemas(); n != 1 {
			t.Errorf("%d schemas stored at first", n)
		}
		b.hub.change(func() { r.times++ })
		time.Sleep(time.Minute)
		if n := schemas(); n != 1 {
			t.Errorf("%d schemas stored a minute after the last time", n)
		}
		time.Sleep(5 * time.Minute)
		if n := schemas(); n != 2 {
			t.Errorf("%d schemas stored after a reconnect", n)
		}
		time.Sleep(time.Hour)
		if n := schemas(); n != 2 {
			t.Errorf("%d schemas stored without another reconnect", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
