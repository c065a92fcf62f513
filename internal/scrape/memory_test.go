package scrape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

const testBody = 64 << 20

// use takes a buffer and reads as many bytes as there are.
func use(b *Buffers, ctx context.Context, abort func(), r io.Reader) error {
	x := b.get()
	defer b.put(x)
	x.watch(ctx.Done(), abort)
	err := x.read(r, testBody)
	if why := x.whyEvicted(); err != nil && why != nil {
		return why
	}
	return err
}

// endless gives bytes until its context ends, once it is let go.
type endless struct {
	ctx  context.Context
	left int
	wait time.Duration // when there are no bytes left
}

func (e *endless) Read(p []byte) (int, error) {
	if e.left == 0 {
		select {
		case <-e.ctx.Done():
			return 0, e.ctx.Err()
		case <-time.After(e.wait):
			return 0, io.EOF
		}
	}
	n := min(len(p), e.left)
	e.left -= n
	return n, e.ctx.Err()
}

func zeros(n int) io.Reader { return io.LimitReader(zero{}, int64(n)) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { return len(p), nil }

// A large body that hangs gives way to a smaller one at once, and ordinary ones do not even ask.
func TestTheLargestBodyGivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBuffers(24 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		hanging := make(chan error, 1)
		go func() {
			hanging <- use(b, ctx, cancel, &endless{ctx: ctx, left: 15 << 20, wait: time.Hour})
		}()
		synctest.Wait()
		if b.held != 16<<20 {
			t.Fatalf("held %d", b.held)
		}
		began := time.Now()
		if err := use(b, t.Context(), nil, zeros(900<<10)); err != nil || ctx.Err() != nil {
			t.Fatalf("a small body: %v; the large one: %v", err, ctx.Err())
		}
		if err := use(b, t.Context(), nil, zeros(7<<20)); err != nil {
			t.Fatal(err)
		}
		err := <-hanging
		var e *BodyMemoryError
		if !errors.As(err, &e) || e.Limit != 24<<20 || e.Want != 16<<20 || e.Held+e.Want > e.Limit {
			t.Errorf("the large body: %v", err)
		}
		if time.Since(began) != 0 {
			t.Errorf("others waited %v", time.Since(began))
		}
		if b.held != 0 || len(b.large) != 0 {
			t.Errorf("held %d, %d large at the end", b.held, len(b.large))
		}
	})
}

// The largest waits for those before it; at its timeout it fails, with the figures.
func TestTheLargestBodyWaits(t *testing.T) {
	for name, wait := range map[string]time.Duration{"room in time": 3 * time.Second, "no room in time": 30 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBuffers(24 << 20)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				first := make(chan error, 1)
				go func() { first <- use(b, ctx, cancel, &endless{ctx: ctx, left: 7 << 20, wait: wait}) }()
				synctest.Wait()
				limited, stop := context.WithTimeout(t.Context(), 10*time.Second)
				defer stop()
				began := time.Now()
				err := use(b, limited, stop, zeros(15<<20))
				var e *BodyMemoryError
				if wait < 10*time.Second && (err != nil || time.Since(began) != wait) {
					t.Errorf("after %v: %v", time.Since(began), err)
				} else if wait > 10*time.Second && (!errors.As(err, &e) || e.Held != 8<<20 || e.Want != 24<<20 || time.Since(began) != 10*time.Second) {
					t.Errorf("after %v: %v", time.Since(began), err)
				}
				if err := <-first; err != nil {
					t.Errorf("the smaller one: %v", err)
				}
			})
		})
	}
}

// A body that needs more than all may have is refused at once.
func TestABodyLargerThanTheMemory(t *testing.T) {
	err := use(NewBuffers(4<<20), t.Context(), nil, zeros(30<<20))
	var e *BodyMemoryError
	if !errors.As(err, &e) || e.Want <= e.Limit || e.Held != 0 {
		t.Errorf("error %v", err)
	}
	if err := use(&Buffers{}, t.Context(), nil, zeros(30<<20)); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

// Whatever sizes come at the same time, all end without waiting for a timeout, and what they have together is bounded.
func TestBodiesAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, scrapes = 40 << 20, 60
		b := NewBuffers(limit)
		rnd := rand.New(rand.NewPCG(1, 2))
		var wg sync.WaitGroup
		var mu sync.Mutex
		good, refused := 0, 0
		for i := range scrapes {
			size := rnd.IntN(1 << 20)
			if i%2 == 0 {
				size = rnd.IntN(20 << 20)
			}
			pause := time.Duration(rnd.IntN(20)) * time.Millisecond
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				time.Sleep(pause)
				err := use(b, ctx, cancel, &endless{ctx: ctx, left: size, wait: pause})
				mu.Lock()
				defer mu.Unlock()
				switch e := (*BodyMemoryError)(nil); {
				case err == nil:
					good++
				case errors.As(err, &e) && size > smallBody:
					refused++
				default:
					t.Errorf("%d bytes: %v", size, err)
				}
			})
		}
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		began := time.Now()
		for {
			b.mu.Lock()
			if held := b.held; held > limit+scrapes*smallBody {
				t.Errorf("%d bytes held", held)
			}
			b.mu.Unlock()
			select {
			case <-done:
			case <-time.After(time.Millisecond):
				continue
			}
			break
		}
		if took := time.Since(began); took > time.Second || good < scrapes/2 || refused == 0 || b.held != 0 || len(b.large) != 0 {
			t.Errorf("%d good, %d refused after %v; held %d", good, refused, took, b.held)
		}
	})
}

// Endless targets are down with the reason, and one that is whole is read beside them.
func TestEndlessTargetsShareTheMemory(t *testing.T) {
	const limit = 16 << 20
	o := Options{Buffers: NewBuffers(limit), Metrics: NewMetrics(nil, nil)}
	block := []byte(strings.Repeat("a 1\n", 16<<10))
	scraperOf := func(h http.HandlerFunc) *Scraper {
		tg := serve(t, h)
		tg.Timeout = time.Minute // a busy machine is not what this is about
		s, err := New(tg, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var page strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&page, "whole{i=\"%d\"} 1\n", i)
	}
	var all sync.WaitGroup
	for range 12 {
		s := scraperOf(func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		})
		all.Go(func() {
			f, err := s.Scrape(t.Context())
			var e *BodyMemoryError
			if err != nil || f.Kind != frame.Down || !errors.As(s.LastError(), &e) || s.LastBytes() > limit {
				t.Errorf("frame %v, error %v, %d bytes: %v", f, err, s.LastBytes(), s.LastError())
			}
		})
	}
	whole := scraperOf(text(page.String()))
	for range 3 {
		if f := scrape(t, whole); f.Kind != frame.Scraped {
			t.Errorf("the whole one: %v", whole.LastError())
		}
	}
	all.Wait()
}

// A buffer comes to its limit without a step that is not worth its copy, whatever the limit.
func TestNoSmallStepBeforeTheLimit(t *testing.T) {
	for _, limit := range []int64{100 << 10, 128 << 10, 1 << 20, 1<<20 + 1, 3 << 20, 5 << 20} {
		b := NewBuffers(1 << 30)
		x := b.get()
		for cap(x.bytes) < int(limit+2) {
			before := cap(x.bytes)
			if err := x.grow(limit); err != nil {
				t.Fatal(err)
			}
			if now := cap(x.bytes); now > int(limit+2) || now < before+before/3 {
				t.Errorf("limit %d: from %d to %d bytes", limit, before, now)
			}
		}
		b.put(x)
	}
}

// What large bodies leave behind does not wait for the garbage collector to come by itself.
func TestLargeBodiesLeaveLittleBehind(t *testing.T) {
	b := NewBuffers(1 << 30)
	for range 3 {
		x := b.get()
		for range 7 { // of 8 MiB each
			if err := x.read(zeros(8<<20), testBody); err != nil {
				t.Fatal(err)
			}
			if b.loose > mostLoose {
				t.Errorf("%d bytes lie about beside a buffer of %d", b.loose, cap(x.bytes))
			}
		}
		b.put(x)
		if b.loose > mostLoose {
			t.Errorf("%d bytes lie about", b.loose)
		}
	}
}
