package sink

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
)

// writer receives remote write: 1.0 and 2.0 with snappy, VictoriaMetrics' own with zstd.
type writer struct {
	*counter
	// last is the newest timestamp of each series.
	last map[uint64]int64
	id   seriesID

	unzstd  *zstd.Decoder
	buffers sync.Pool
}

// WriteMain receives until ctx ends.
func WriteMain(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("write", flag.ContinueOnError)
	address := fs.String("listen", "127.0.0.1:18200", "address for remote write, any path")
	control := controlFlag(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	unzstd, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2))
	if err != nil {
		return err
	}
	w := &writer{counter: newCounter(), last: map[uint64]int64{}, unzstd: unzstd}
	w.buffers.New = func() any { b := make([]byte, 1<<20); return &b }
	ended := make(chan error, 2)
	go func() { ended <- listen(ctx, *address, w) }()
	go func() { ended <- w.serve(ctx, *control) }()
	return <-ended
}

// ServeHTTP takes one request.
func (w *writer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		fmt.Fprint(rw, "1") // VictoriaMetrics' agent asks which versions are understood
		return
	}
	counts, err := w.take(r)
	if err != nil {
		w.mu.Lock()
		w.stats.Errors++
		w.mu.Unlock()
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.FormatInt(counts.samples, 10))
	rw.Header().Set("X-Prometheus-Remote-Write-Histograms-Written", strconv.FormatInt(counts.histograms, 10))
	rw.Header().Set("X-Prometheus-Remote-Write-Exemplars-Written", "0")
	rw.WriteHeader(http.StatusNoContent)
}

// taken is what a request held.
type taken struct{ samples, histograms int64 }

func (w *writer) take(r *http.Request) (taken, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return taken{}, err
	}
	now := time.Now().UnixMilli()
	buffer := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(buffer)
	raw, protocol, err := w.unpack(r.Header.Get("Content-Encoding"), body, *buffer)
	if err != nil {
		return taken{}, err
	}
	if cap(raw) > cap(*buffer) {
		*buffer = raw[:cap(raw)]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stats.BodyBytes += int64(len(body))
	w.stats.RawBytes += int64(len(raw))
	if strings.Contains(r.Header.Get("Content-Type"), "io.prometheus.write.v2.Request") {
		w.stats.Requests["2.0 "+protocol]++
		return w.version2(raw, now)
	}
	w.stats.Requests["1.0 "+protocol]++
	return w.version1(raw, now)
}

func (w *writer) unpack(encoding string, body, buffer []byte) (raw []byte, protocol string, err error) {
	switch encoding {
	case "snappy", "":
		raw, err = snappy.Decode(buffer[:cap(buffer)], body)
		return raw, "snappy", err
	case "zstd":
		raw, err = w.unzstd.DecodeAll(body, buffer[:0])
		return raw, "zstd", err
	}
	return nil, "", fmt.Errorf("unknown encoding %q", encoding)
}

// version1 reads prometheus.WriteRequest: 1 are the series, 3 the metadata.
func (w *writer) version1(b []byte, now int64) (t taken, err error) {
	err = eachField(b, func(f field) error {
		switch f.number {
		case 1:
			return w.series1(f.data, now, &t)
		case 3:
			w.stats.Metadata++
		}
		return nil
	})
	return t, err
}

// series1 reads prometheus.TimeSeries: 1 are the labels, 2 the samples, 4 the histograms.
func (w *writer) series1(b []byte, now int64, t *taken) error {
	w.id.reset()
	return eachField(b, func(f field) error {
		switch f.number {
		case 1:
			var name, value []byte
			if err := eachField(f.data, func(f field) error {
				switch f.number {
				case 1:
					name = f.data
				case 2:
					value = f.data
				}
				return nil
			}); err != nil {
				return err
			}
			w.id.label(name, value)
		case 2:
			return w.sample(f.data, now, t)
		case 4:
			t.histograms++
			w.stats.Histograms++
		}
		return nil
	})
}

// version2 reads io.prometheus.write.v2.Request: 4 are the symbols, which come before the series or after, 5 the series.
func (w *writer) version2(b []byte, now int64) (t taken, err error) {
	var symbols [][]byte
	if err := eachField(b, func(f field) error {
		if f.number == 4 {
			symbols = append(symbols, f.data)
		}
		return nil
	}); err != nil {
		return t, err
	}
	err = eachField(b, func(f field) error {
		if f.number == 5 {
			return w.series2(f.data, symbols, now, &t)
		}
		return nil
	})
	return t, err
}

// series2 reads its TimeSeries: 1 are the labels as pairs of symbols, 2 the samples, 3 the histograms, 5 the metadata.
func (w *writer) series2(b []byte, symbols [][]byte, now int64, t *taken) error {
	w.id.reset()
	return eachField(b, func(f field) error {
		switch f.number {
		case 1:
			return w.labels2(f.data, symbols)
		case 2:
			return w.sample(f.data, now, t)
		case 3:
			t.histograms++
			w.stats.Histograms++
		case 5:
			w.stats.Metadata++
		}
		return nil
	})
}

func (w *writer) labels2(refs []byte, symbols [][]byte) error {
	var name []byte
	for i := 0; len(refs) > 0; i++ {
		ref, n := binary.Uvarint(refs)
		if n <= 0 || ref >= uint64(len(symbols)) {
			return errors.New("label refers to a symbol that is not there")
		}
		refs = refs[n:]
		if i%2 == 0 {
			name = symbols[ref]
			continue
		}
		w.id.label(name, symbols[ref])
	}
	return nil
}

// sample counts one sample of the series whose labels were read.
func (w *writer) sample(b []byte, now int64, t *taken) error {
	bits, timestamp, err := parseSample(b)
	if err != nil {
		return err
	}
	t.samples++
	switch {
	case bits == staleMarker:
		w.stats.Stale++
		return nil
	case w.id.automatic:
		w.stats.Auto++
		return nil
	}
	id := w.id.hash.Sum64()
	last, known := w.last[id]
	if known && timestamp <= last {
		w.stats.Duplicates++
		return nil
	}
	if !known {
		w.stats.Series++
	}
	w.last[id] = timestamp
	w.arrived(1, timestamp, now)
	return nil
}
