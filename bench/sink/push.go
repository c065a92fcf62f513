package sink

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"flag"
	"io"
	"net/http"
	"strings"
)

// pusher takes pushes as a Push Gateway does, and counts.
type pusher struct{ *counter }

// PushMain receives until ctx ends.
func PushMain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("push", flag.ContinueOnError)
	address := fs.String("listen", "127.0.0.1:18202", "address of the Push Gateway")
	control := controlFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	p := &pusher{newCounter()}
	ended := make(chan error, 2)
	go func() { ended <- listen(ctx, *address, p) }()
	go func() { ended <- p.serve(ctx, *control) }()
	return <-ended
}

// ServeHTTP takes one push of the text format. Its samples have no times: there are no latencies.
func (p *pusher) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	in := io.Reader(bytes.NewReader(body))
	if err == nil && r.Header.Get("Content-Encoding") == "gzip" {
		in, err = gzip.NewReader(in)
	}
	var samples, auto, size int64
	if err == nil {
		samples, auto, size, err = countLines(in)
	}
	if strings.HasPrefix(r.URL.Path, "/metrics/job/"+selfJob+"/") {
		samples, auto = 0, auto+samples
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.stats.Errors++
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	p.stats.Requests[r.Method]++
	p.stats.BodyBytes += int64(len(body))
	p.stats.RawBytes += size
	p.stats.Samples += samples
	p.stats.Auto += auto
}

// countLines counts the samples of an exposition, apart from those that the scraper adds.
func countLines(in io.Reader) (samples, auto, size int64, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Bytes()
		size += int64(len(line)) + 1
		switch {
		case len(line) == 0 || line[0] == '#':
		case bytes.HasPrefix(line, []byte("up ")) || bytes.HasPrefix(line, []byte("up{")) || bytes.HasPrefix(line, []byte("scrape_")):
			auto++
		default:
			samples++
		}
	}
	return samples, auto, size, lines.Err()
}
