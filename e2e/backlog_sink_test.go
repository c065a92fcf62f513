package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"

	"github.com/klauspost/compress/snappy"
)

// backlogSink is a receiver of remote write 2.0 that takes a backlog: it keeps nothing, counts, and looks at each sample's
// value and place in its series.
type backlogSink struct {
	*backlog
	url string

	mu       sync.Mutex
	next     []int // by target and series: the scrape that has to come
	samples  int   // of the backlog's series
	requests int
	series   int // as they stand in requests: fewer than samples if scrapes go together
	bytes    int
	faults   []error
}

func startBacklogSink(t testing.TB, b *backlog) *backlogSink {
	d := &backlogSink{backlog: b, next: make([]int, b.targets*b.series)}
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	d.url = server.URL
	return d
}

// ServeHTTP takes one request.
func (d *backlogSink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	packed, err := io.ReadAll(r.Body)
	var body []byte
	if err == nil {
		body, err = snappy.Decode(nil, packed)
	}
	count := 0
	if err == nil {
		count, err = d.take(body)
	}
	d.mu.Lock()
	d.requests++
	d.bytes += len(packed)
	if err != nil && len(d.faults) < 10 {
		d.faults = append(d.faults, err)
	}
	d.mu.Unlock()
	w.Header().Set("X-Prometheus-Remote-Write-Samples-Written", strconv.Itoa(count))
	w.WriteHeader(http.StatusNoContent)
}

var errProto = errors.New("not a request of remote write 2.0")

// protoFields calls f with each field of a message: its number, and its bytes or its number.
func protoFields(b []byte, f func(field int, b []byte, v uint64) error) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return errProto
		}
		b = b[n:]
		var content []byte
		var v uint64
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(b); n <= 0 {
				return errProto
			}
			b = b[n:]
		case 1:
			if len(b) < 8 {
				return errProto
			}
			v, b = binary.LittleEndian.Uint64(b), b[8:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errProto
			}
			content, b = b[n:n+int(size)], b[n+int(size):]
		default:
			return errProto
		}
		if err := f(int(tag>>3), content, v); err != nil {
			return err
		}
	}
	return nil
}

// take counts all samples of a request.
func (d *backlogSink) take(body []byte) (count int, err error) {
	type names struct{ target, series int }
	var symbols []names
	d.mu.Lock()
	defer d.mu.Unlock()
	err = protoFields(body, func(field int, b []byte, _ uint64) error {
		if field == 4 {
			symbols = append(symbols, names{number(string(b), "host-"), number(string(b), "number-")})
			return nil
		}
		d.series++
		target, series := -1, -1
		return protoFields(b, func(field int, b []byte, _ uint64) error {
			switch field {
			case 1:
				for len(b) > 0 {
					ref, n := binary.Uvarint(b)
					if n <= 0 || ref >= uint64(len(symbols)) {
						return errProto
					}
					b = b[n:]
					target, series = max(target, symbols[ref].target), max(series, symbols[ref].series)
				}
			case 2:
				var bits, ms uint64
				if err := protoFields(b, func(field int, _ []byte, v uint64) error {
					if field == 1 {
						bits = v
					} else if field == 2 {
						ms = v
					}
					return nil
				}); err != nil {
					return err
				}
				count++
				if series >= 0 {
					return d.sample(target, series, int64(ms), math.Float64frombits(bits))
				}
			}
			return nil
		})
	})
	return count, err
}

// sample looks whether a sample is the one that has to come.
func (d *backlogSink) sample(target, series int, ms int64, v float64) error {
	if target < 0 || target >= d.targets || series >= d.backlog.series {
		return fmt.Errorf("a sample of target %d, series %d", target, series)
	}
	next := &d.next[target*d.backlog.series+series]
	if want := d.value(target, series, *next); ms != d.time(target, *next) || v != want {
		return fmt.Errorf("target %d, series %d: %v at %d, want scrape %d: %v at %d", target, series, v, ms, *next, want, d.time(target, *next))
	}
	*next++
	d.samples++
	return nil
}

// whole tells what is missing.
func (d *backlogSink) whole() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.samples != d.backlog.samples() || len(d.faults) > 0 {
		return fmt.Errorf("%d of %d samples, %d faults: %w", d.samples, d.backlog.samples(), len(d.faults), errors.Join(d.faults...))
	}
	return nil
}
