package jetstream

import (
	"testing"

	"github.com/choria-io/prometheus-streams/internal/stream"
	"github.com/choria-io/prometheus-streams/internal/stream/access"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// FuzzAnswers reads answers of JetStream's API and of direct gets, whatever is in them, and says what is wrong with the
// streams and consumers that they tell of.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"config":{"name":"A","subjects":["a.>"],"max_age":1,"max_msg_size":10,"max_bytes":3,"discard":"new","republish":{"dest":"a.>"}},"created":"2026-01-01T00:00:00Z"}`), "", "7", "2026-01-01T00:00:00Z")
	f.Add([]byte(`{"stream_name":"A","config":{"ack_policy":"all","deliver_subject":"x","filter_subjects":["a"]},"ack_floor":{"stream_seq":3}}`), "404", "", "")
	f.Add([]byte(`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`), "503", "x", "y")
	f.Add([]byte(`{"error":null}`), "", "18446744073709551616", "")
	o := Options{Filter: "prometheus.frames.*.*", Topic: "prometheus", Server: access.Server{URLs: []string{"nats://127.0.0.1:1"}}}
	c, err := Connect(f.Context(), o)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(c.Close)
	want := StreamConfig{}
	want.setDefaults()
	f.Fuzz(func(t *testing.T, data []byte, status, sequence, at string) {
		var info jetstream.StreamInfo
		if readAnswer("STREAM.INFO", data, &info) == nil {
			for _, p := range append(c.checkFrames(info.Config, want), c.checkSchemas(info.Config, info.Config.MaxAge)...) {
				if p.What == "" || p.Why == "" || p.Fix == "" {
					t.Errorf("half a problem: %+v", p)
				}
			}
		}
		var consumer jetstream.ConsumerInfo
		if readAnswer("CONSUMER.INFO", data, &consumer) == nil {
			_ = usable(&consumer, &ConsumerOptions{Durable: "d", Filter: "f"})
		}
		header := nats.Header{}
		for key, value := range map[string]string{"Status": status, jetstream.SequenceHeader: sequence, jetstream.TimeStampHeaer: at} {
			if value != "" {
				header.Set(key, value)
			}
		}
		m, err := storedMessage("A", &nats.Msg{Header: header, Data: data})
		if (m == nil) == (err == nil) || m != nil && status != "" {
			t.Errorf("%v, %v", m, err)
		}
		if m != nil {
			var j stream.Joiner
			_, _ = j.Add(m)
		}
	})
}
