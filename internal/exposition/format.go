package exposition

import (
	"bytes"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Format is a form of exposition that a Writer writes. The zero value is the text format 0.0.4 with names escaped to
// underscores, which every reader understands.
type Format struct {
	openMetrics bool
	protobuf    bool
	escaping    model.EscapingScheme
	contentType string
}

// Negotiate gives the format that suits an Accept header best: delimited protobuf, OpenMetrics 1.0 or 0.0.1 if asked
// for, else the text format 0.0.4; names outside of the old character set are escaped as the header says.
func Negotiate(accept string) Format {
	f := expfmt.NegotiateAccept(http.Header{"Accept": {accept}},
		expfmt.NewFormat(expfmt.TypeTextPlain), expfmt.FmtOpenMetrics_1_0_0, expfmt.FmtOpenMetrics_0_0_1,
		expfmt.NewFormat(expfmt.TypeProtoDelim))
	return Format{
		openMetrics: f.FormatType() == expfmt.TypeOpenMetrics,
		protobuf:    f.FormatType() == expfmt.TypeProtoDelim,
		escaping:    f.ToEscapingScheme(),
		contentType: string(f),
	}
}

// ContentType is the Content-Type header of the format.
func (f Format) ContentType() string {
	if f.contentType == "" {
		return string(expfmt.NewFormat(expfmt.TypeTextPlain).WithEscapingScheme(model.UnderscoreEscaping))
	}
	return f.contentType
}

// Protobuf tells whether it is the protobuf format: messages of io.prometheus.client.MetricFamily, each behind its
// length. It alone holds native histograms and start timestamps.
func (f Format) Protobuf() bool { return f.protobuf }

// OpenMetrics tells whether it is OpenMetrics.
func (f Format) OpenMetrics() bool { return f.openMetrics }

// Escaping is how names outside of the old character set are written.
func (f Format) Escaping() model.EscapingScheme { return f.scheme() }

// scheme is how names are escaped.
func (f Format) scheme() model.EscapingScheme {
	if f.contentType == "" {
		return model.UnderscoreEscaping
	}
	return f.escaping
}

// Gather writes what a registry of this process holds, in the text format and with all names as they are. There is
// room for one more byte behind the body, as Layout.Parse wants it.
func Gather(g prometheus.Gatherer) (body []byte, contentType string, err error) {
	families, err := g.Gather()
	if err != nil {
		return nil, "", fmt.Errorf("gather own metrics: %w", err)
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain).WithEscapingScheme(model.NoEscaping)
	var b bytes.Buffer
	e := expfmt.NewEncoder(&b, format)
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			return nil, "", fmt.Errorf("write own metrics: %w", err)
		}
	}
	b.WriteByte('\n')
	return b.Bytes()[:b.Len()-1], string(format), nil
}
