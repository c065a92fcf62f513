package exposition

import (
	"math"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

func TestReadExemplar(t *testing.T) {
	for _, tc := range []struct {
		text string
		want frame.Exemplar
		good bool
	}{
		{" # {a=\"b\"} 1\n", frame.Exemplar{Labels: labels.FromStrings("a", "b"), Value: 1, Timestamp: frame.NoTimestamp}, true},
		{" # {} 0.5 1.25\n", frame.Exemplar{Value: 0.5, Timestamp: 1250}, true},
		{" # {_x1=\"ü\",a=\"\"} +Inf -2\n", frame.Exemplar{Labels: labels.FromStrings("_x1", "ü", "a", ""), Value: math.Inf(1), Timestamp: -2000}, true},
		{" # {a=\"b\",} 1\n", frame.Exemplar{}, false}, {" # {a=\"b\\\\\"} 1\n", frame.Exemplar{}, false}, {" # {\"a\"=\"b\"} 1\n", frame.Exemplar{}, false},
		{" # {a=\"\xff\"} 1\n", frame.Exemplar{}, false}, {" # {a=\"b\"}1\n", frame.Exemplar{}, false}, {" # {a=\"b\"} 1", frame.Exemplar{}, false},
		{" # {a=\"b\"} 1 NaN\n", frame.Exemplar{}, false}, {" # {a=\"b\"} 1 2 3\n", frame.Exemplar{}, false}, {" # {a=\"b\"} 1 \n", frame.Exemplar{}, false},
		{" # {1a=\"b\"} 1\n", frame.Exemplar{}, false}, {" # {a=\"b\" } 1\n", frame.Exemplar{}, false}, {" 12 # {} 1\n", frame.Exemplar{}, false},
		{" # {a=\"b", frame.Exemplar{}, false}, {" # {a=", frame.Exemplar{}, false}, {" # {", frame.Exemplar{}, false}, {" # {}", frame.Exemplar{}, false}, {"", frame.Exemplar{}, false},
		{" # {a=\"b\"", frame.Exemplar{}, false}, {" # {a=\"b\",", frame.Exemplar{}, false}, {" # {a=\"b\"} ", frame.Exemplar{}, false},
	} {
		var lb labels.ScratchBuilder
		got, end := readExemplar([]byte("x"+tc.text), 1, &lb)
		if (end >= 0) != tc.good || tc.good && end != len(tc.text) {
			t.Errorf("%q ends at %d", tc.text, end)
		}
		if tc.good && (!labels.Equal(got.Labels, tc.want.Labels) || got.Value != tc.want.Value || got.Timestamp != tc.want.Timestamp) {
			t.Errorf("%q gives %+v, want %+v", tc.text, got, tc.want)
		}
	}
}

// TestOpenMetricsIsComparedByPosition shows that exemplars and start timestamps do not take a body off the fast path.
func TestOpenMetricsIsComparedByPosition(t *testing.T) {
	for _, starts := range []bool{false, true} {
		rules := Rules{HonorTimestamps: true, StartTimestamps: starts}
		l, r := NewLayout(rules, NewSchemas()), newReference(rules)
		for i, body := range []string{program(t, 2, expfmt.TypeOpenMetrics), created(1), created(1), strings.ReplaceAll(created(1), " # {t=\"h\"} 0.5 1.5", ""), created(1)} {
			p := check(t, l, r, []byte(body), openMetricsType)
			if !l.skeleton.positional {
				t.Errorf("body %d is not for the fast path", i)
			}
			at, pos := l.match(l.skeleton, []byte(body))
			if pos >= 0 {
				t.Errorf("body %d does not match its own lines at %d", i, at)
			}
			if hasStarts := p.Column.Starts != nil; hasStarts != starts {
				t.Errorf("body %d: start timestamps %v", i, p.Column.Starts)
			}
		}
	}
}
