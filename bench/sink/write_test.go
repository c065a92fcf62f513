package sink

import (
	"encoding/binary"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
)

// message writes a protobuf message of fields: strings and []byte with a length, uint64 as varints, float64 as fixed64.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		number := uint64(fields[i].(int)) << 3
		switch v := fields[i+1].(type) {
		case string:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, number|2), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(binary.AppendUvarint(b, number|2), uint64(len(v))), v...)
		case uint64:
			b = binary.AppendUvarint(binary.AppendUvarint(b, number), v)
		case float64:
			b = binary.LittleEndian.AppendUint64(binary.AppendUvarint(b, number|1), math.Float64bits(v))
		}
	}
	return b
}

func series1(name string, timestamp uint64, value float64) []byte {
	return message(1, message(1, "__name__", 2, name), 1, message(1, "job", 2, "j"), 2, message(1, value, 2, timestamp))
}

func TestWrite(t *testing.T) {
	stale := math.Float64frombits(staleMarker)
	version1 := message(1, series1("a", 1000, 1), 1, series1("up", 1000, 1), 1, series1("b", 1000, stale), 3, message(1, uint64(1)))
	version2 := message(4, "", 4, "__name__", 4, "a", 4, "job", 4, "j",
		5, message(1, []byte{1, 2, 3, 4}, 2, message(1, 1.0, 2, uint64(1000))),
		5, message(1, []byte{1, 2, 3, 4}, 2, message(1, 2.0, 2, uint64(2000))))
	tests := []struct {
		name, contentType string
		body              []byte
		status            int
		want              Stats
	}{
		{"version 1", "application/x-protobuf", version1, 204, Stats{Samples: 1, Auto: 1, Stale: 1, Metadata: 1, Series: 1}},
		{"version 2", "application/x-protobuf;proto=io.prometheus.write.v2.Request", version2, 204, Stats{Samples: 2, Series: 1}},
		{"twice", "application/x-protobuf", append(append([]byte{}, version1...), version1...), 204,
			Stats{Samples: 1, Duplicates: 1, Auto: 2, Stale: 2, Metadata: 2, Series: 1}},
		{"junk", "application/x-protobuf", []byte{0x0a, 0xff}, 400, Stats{Errors: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &writer{counter: newCounter(), last: map[uint64]int64{}}
			w.buffers.New = func() any { b := make([]byte, 1); return &b }
			r := httptest.NewRequest(http.MethodPost, "/api/v1/write", strings.NewReader(string(snappy.Encode(nil, test.body))))
			r.Header.Set("Content-Encoding", "snappy")
			r.Header.Set("Content-Type", test.contentType)
			rw := httptest.NewRecorder()
			w.ServeHTTP(rw, r)
			if rw.Code != test.status {
				t.Errorf("status %d, want %d", rw.Code, test.status)
			}
			got := w.stats
			got.Requests, got.BodyBytes, got.RawBytes = nil, 0, 0
			if got.Samples != test.want.Samples || got.Auto != test.want.Auto || got.Stale != test.want.Stale || got.Series != test.want.Series ||
				got.Duplicates != test.want.Duplicates || got.Metadata != test.want.Metadata || got.Errors != test.want.Errors {
				t.Errorf("counted %+v, want %+v", got, test.want)
			}
		})
	}
}
