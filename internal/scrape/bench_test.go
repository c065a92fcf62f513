//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package scrape

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/target"
)

// BenchmarkScrape is a scrape of 1000 series in gzip, over loopback from a server that has the answer ready, as fast as
// it goes and with a pause in which the process sleeps. cpu-µs is what the process took, with the server in it: about
// two calls into the kernel and two wake-ups.
func BenchmarkScrape(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go answerAll(l, exposition1000(b))
	theirs, err := promconfig.NewClientFromConfig(promconfig.DefaultHTTPClientConfig, "bench")
	if err != nil {
		b.Fatal(err)
	}
	ours, err := NewClient()
	if err != nil {
		b.Fatal(err)
	}
	for _, pause := range []time.Duration{0, 25 * time.Millisecond} {
		for name, c := range map[string]*http.Client{"direct": ours, "net-http": theirs} {
			b.Run(fmt.Sprintf("%s/pause=%s", name, pause), func(b *testing.B) { benchmarkScrape(b, c, l.Addr().String(), pause) })
		}
	}
}

func benchmarkScrape(b *testing.B, c *http.Client, address string, pause time.Duration) {
	tg, err := target.FromJob("j", "i", "http://"+address+"/metrics", target.Schedule{Interval: 5 * time.Second}, labels.EmptyLabels())
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(tg, Options{Client: c})
	if err != nil {
		b.Fatal(err)
	}
	one := func() {
		if f, err := s.Scrape(b.Context()); err != nil || f.Kind != frame.Scraped {
			b.Fatal(err, s.LastError())
		}
	}
	one()
	b.ReportAllocs()
	before := cpu(b)
	for b.Loop() {
		one()
		if pause > 0 {
			time.Sleep(pause)
		}
	}
	b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
	c.CloseIdleConnections()
}

// cpu is the time of the process, in its own code and in the kernel.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func exposition1000(b *testing.B) []byte {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "bench_requests_total{method=\"GET\",path=\"/api/v1/%d\",code=\"200\"} %d\n", i, i*i*7919)
	}
	body := gzipped(b, []byte(text.String()))
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", textType, len(body), body)
}

func answerAll(l net.Listener, answer []byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for in := bufio.NewReader(c); ; {
				for line := "x"; line != "\r\n"; {
					if line, err = in.ReadString('\n'); err != nil {
						return
					}
				}
				if _, err := io.Writer(c).Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// BenchmarkConnection is the memory of a connection that waits for its next scrape, with its goroutines.
func BenchmarkConnection(b *testing.B) {
	theirs, err := promconfig.NewClientFromConfig(promconfig.DefaultHTTPClientConfig, "bench")
	if err != nil {
		b.Fatal(err)
	}
	ours, err := NewClient()
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]*http.Client{"direct": ours, "net-http": theirs} {
		b.Run(name, func(b *testing.B) {
			const targets = 200
			for b.Loop() {
				before := memory()
				conns := connect(b, c, targets)
				b.ReportMetric(float64(memory()-before)/targets, "B/conn")
				c.CloseIdleConnections()
				for _, s := range conns {
					_ = s.Close()
				}
			}
		})
	}
}

// connect asks n targets once. It gives the servers' ends of the connections, which nothing waits for.
func connect(b *testing.B, c *http.Client, n int) (conns []net.Conn) {
	accepted := make(chan net.Conn, n)
	request := make([]byte, 4<<10)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			s, err := l.Accept()
			if err == nil {
				_, _ = s.Read(request)
				_, _ = io.WriteString(s, fine)
			}
			accepted <- s
		}()
		if g := ask(b.Context(), c, "http://"+l.Addr().String()+"/metrics"); g.err != "" {
			b.Fatal(g)
		}
		conns = append(conns, <-accepted)
		_ = l.Close()
	}
	return conns
}

// memory is what the heap and the stacks take.
func memory() int64 {
	for range 3 { // what pools hold goes with the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
