// Package exporter is the load: one process with N targets of M series each, made up but shaped like those of a cluster:
// names, labels and how values move. It serves them as client_golang does, gzip included, and counts what it served.
package exporter

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Stats is what was served. Samples are counted once the whole page was written.
type Stats struct {
	Scrapes, Samples int64
	// Bytes are those of the text, WireBytes those of the body as sent.
	Bytes, WireBytes int64
	Errors           int64
	// N targets with M series each.
	N, M int
}

// page is one target's exposition.
type page struct {
	mu       sync.Mutex
	rnd      *rand.Rand
	lines    []line
	series   int
	churning []*series

	// phase spreads the replacing of series over targets, which do not do it all at once.
	phase, scrapes, churns int
	text, zipped           bytes.Buffer
	zip                    *gzip.Writer
}

// line is a series, or the header of a family.
type line struct {
	header []byte
	series *series
}

// options are the flags of all targets.
type options struct {
	gzip bool
	// churn is the fraction of the series replaced every churnEvery scrapes.
	churn      float64
	churnEvery int
}

type exporter struct {
	options
	pages  []*page
	paused atomic.Bool

	scrapes, samples, bytes, wire, errors atomic.Int64
}

// Main serves until ctx ends. /stats of the control address tells what was served, /pause makes all scrapes fail,
// /resume undoes it.
func Main(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("targets", flag.ContinueOnError)
	n := fs.Int("n", 200, "number of targets")
	m := fs.Int("m", 1000, "series per target")
	base := fs.Int("base-port", 21000, "target i listens on 127.0.0.1 at this port + i")
	control := fs.String("control", "127.0.0.1:18999", "address of /stats, /pause, /resume")
	e := &exporter{}
	fs.BoolVar(&e.gzip, "gzip", true, "compress when asked, as client_golang does")
	fs.Float64Var(&e.churn, "churn", 0, "fraction of the series replaced every -churn-every scrapes")
	fs.IntVar(&e.churnEvery, "churn-every", 12, "scrapes between replacements")
	same := fs.Bool("same-shape", false, "all targets have the series of the first, as replicas of one program do")
	dump := fs.Int("dump", 0, "print this many successive pages of target 0, a form feed between them, and exit")
	if err := fs.Parse(args); err != nil {
		return err
	}
	for i := range *n {
		index := i
		if *same {
			index = 0
		}
		p := newPage(index, *m)
		p.phase = i
		e.pages = append(e.pages, p)
	}
	if *dump > 0 {
		for i := range *dump {
			if i > 0 {
				fmt.Print("\f")
			}
			fmt.Print(string(e.pages[0].next(e.options)))
		}
		return nil
	}
	for i, p := range e.pages {
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", *base+i))
		if err != nil {
			return err
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(p, w, r) })}
		go server.Serve(l)
	}
	return e.control(ctx, *control)
}

func (e *exporter) control(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/pause", func(http.ResponseWriter, *http.Request) { e.paused.Store(true) })
	mux.HandleFunc("/resume", func(http.ResponseWriter, *http.Request) { e.paused.Store(false) })
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(Stats{Scrapes: e.scrapes.Load(), Samples: e.samples.Load(), Bytes: e.bytes.Load(),
			WireBytes: e.wire.Load(), Errors: e.errors.Load(), N: len(e.pages), M: e.pages[0].series})
	})
	server := &http.Server{Addr: address, Handler: mux}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Shutdown(end)
	}()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func (e *exporter) serve(p *page, w http.ResponseWriter, r *http.Request) {
	if e.paused.Load() {
		http.Error(w, "paused", http.StatusServiceUnavailable)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	body := p.next(e.options)
	text := len(body)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if e.gzip && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		body = p.compress(body)
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if _, err := w.Write(body); err != nil {
		e.errors.Add(1)
		return
	}
	e.scrapes.Add(1)
	e.samples.Add(int64(p.series))
	e.bytes.Add(int64(text))
	e.wire.Add(int64(len(body)))
}

// next moves all values and gives the page; it is valid until the next call.
func (p *page) next(o options) []byte {
	p.scrapes++
	if o.churn > 0 && (p.phase+p.scrapes)%o.churnEvery == 0 && len(p.churning) > 0 {
		p.churns++
		k := int(o.churn * float64(p.series))
		for i := range k {
			p.churning[(p.churns*k+i)%len(p.churning)].replacePod(p.rnd)
		}
	}
	p.text.Reset()
	for i := range p.lines {
		if s := p.lines[i].series; s != nil {
			s.move(p.rnd)
			s.appendLine(&p.text)
			continue
		}
		p.text.Write(p.lines[i].header)
	}
	return p.text.Bytes()
}

func (p *page) compress(body []byte) []byte {
	p.zipped.Reset()
	if p.zip == nil {
		p.zip, _ = gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is a valid one
	}
	p.zip.Reset(&p.zipped)
	p.zip.Write(body) // into memory: it does not fail
	p.zip.Close()
	return p.zipped.Bytes()
}

// Pages gives the successive pages of one target without a server.
type Pages struct{ page *page }

// NewPages is the target of an index, with so many series: the same numbers give the same pages.
func NewPages(index, series int) *Pages { return &Pages{newPage(index, series)} }

// Next moves all values and gives the page; it is valid until the next call.
func (p *Pages) Next() []byte { return p.page.next(options{}) }
