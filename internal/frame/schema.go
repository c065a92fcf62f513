package frame

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// SchemaID names a schema by its content: SHA-256 of the canonical encoding, cut to 128 bits.
type SchemaID [16]byte

// String gives the id in 32 hexadecimal digits, as it stands in subjects and logs.
func (id SchemaID) String() string { return hex.EncodeToString(id[:]) }

// ParseSchemaID reads what String gives.
func ParseSchemaID(s string) (id SchemaID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("schema id %q: %w: want %d hexadecimal digits", s, ErrMalformed, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// Schema names the series of a column, in order, and says what is known of them. It is immutable and shared by all
// targets whose series differ in the target's labels only.
type Schema struct {
	// ID is the hash of all that follows.
	ID SchemaID
	// Text is nil in a schema that Pack gave.
	*Text

	shape   SchemaID
	bytes   int64
	classes []uint8 // of the bases
	pred    []uint8 // how many rows back the row stands that predicts this one; 0 is none
	packed  *packed // in place of the text
}

// Text is what a schema says in words.
type Text struct {
	Families []Family
	Series   []Series
}

// NewSchema checks families and series, computes the ids, and keeps the two slices: they must not be changed any more.
//
// Refused are labels that are not in order of their names, series with equal labels (what a target exposes twice has
// to be told apart or dropped before), family indexes out of range, text that is not UTF-8, and whatever is above lim.
func NewSchema(families []Family, series []Series, lim Limits) (*Schema, error) {
	s := &Schema{Text: &Text{Families: families, Series: series}}
	if err := s.check(lim); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	div := newScales()
	s.classes = classesOf(series, &div)
	s.predict()
	s.seal()
	return s, nil
}

// classesOf gives the classes of base values.
func classesOf(series []Series, div *scales) []uint8 {
	classes := make([]uint8, len(series))
	for i := range series {
		classes[i] = classOf(series[i].Base, div)
	}
	return classes
}

// seal computes the ids from all the rest.
func (s *Schema) seal() {
	content := s.appendShape(s.room())
	s.shape = hash("shape", content)
	s.ID = hash("schema", s.appendBases(content, s.classes))
	s.measure()
}

func hash(domain string, content []byte) (id SchemaID) {
	h := sha256.New()
	h.Write([]byte("prometheus-streams " + domain + " 2\n"))
	h.Write(content)
	copy(id[:], h.Sum(nil))
	return id
}

// Len is the number of series.
func (s *Schema) Len() int { return len(s.classes) }

// base is the base value of series i.
func (s *Schema) base(i int) float64 {
	if s.packed != nil {
		return s.packed.bases[i]
	}
	return s.Series[i].Base
}

// Shape is the hash without the base values: two schemas have the same one if they name the same series of the same
// families in the same order.
func (s *Schema) Shape() SchemaID { return s.shape }

// SeriesLabels gives all labels of series i for a target: the target's, with those of the series set over them. The
// builder is scratch space; it may be used again after.
func (s *Schema) SeriesLabels(i int, target labels.Labels, b *labels.Builder) labels.Labels {
	b.Reset(target)
	s.Series[i].Labels.Range(func(l labels.Label) {
		if l.Value == "" {
			b.Del(l.Name)
		} else {
			b.Set(l.Name, l.Value)
		}
	})
	return b.Labels()
}

func (s *Schema) check(lim Limits) error {
	if err := within("families", uint64(len(s.Families)), lim.Families); err != nil {
		return err
	}
	if err := within("series", uint64(len(s.Series)), lim.Series); err != nil {
		return err
	}
	size := uint64(0)
	for i := range s.Families {
		f := &s.Families[i]
		if !utf8.ValidString(f.Name) || !utf8.ValidString(f.Help) || !utf8.ValidString(f.Unit) {
			return fmt.Errorf("%w: text of family %q is not UTF-8", ErrMalformed, f.Name)
		}
		if f.Type != "" && f.Type != model.MetricTypeUnknown && typeNumber(f.Type) == 0 {
			return fmt.Errorf("%w: family %q is of type %q", ErrMalformed, f.Name, f.Type)
		}
		size += uint64(len(f.Name) + len(f.Help) + len(f.Unit))
	}
	seen := make(map[uint64]int32, len(s.Series))
	for i := range s.Series {
		x := &s.Series[i]
		if x.Family < -1 || x.Family >= len(s.Families) {
			return fmt.Errorf("%w: series %s is of family %d of %d", ErrMalformed, x.Labels, x.Family, len(s.Families))
		}
		n, err := checkLabels(x.Labels, lim)
		if err != nil {
			return err
		}
		size += n
		if err := within("bytes of a schema", size, lim.SchemaBytes); err != nil {
			return err
		}
		if err := s.checkTwin(seen, i); err != nil {
			return err
		}
	}
	return nil
}

// checkTwin refuses series i if an earlier one has its labels. Hashes that collide are put one further.
func (s *Schema) checkTwin(seen map[uint64]int32, i int) error {
	x := &s.Series[i]
	for h := x.Labels.Hash(); ; h++ {
		j, ok := seen[h]
		if !ok {
			seen[h] = int32(i)
			return nil
		}
		if labels.Equal(s.Series[j].Labels, x.Labels) {
			return fmt.Errorf("%w: series %s stands there twice", ErrMalformed, x.Labels)
		}
	}
}

func checkLabels(ls labels.Labels, lim Limits) (size uint64, err error) {
	if err := within("labels of a series", uint64(ls.Len()), lim.Labels); err != nil {
		return 0, err
	}
	last := ""
	ls.Range(func(l labels.Label) {
		if err != nil {
			return
		}
		if l.Name == "" || l.Name <= last {
			err = fmt.Errorf("%w: label name %q of %s is empty or not in order", ErrMalformed, l.Name, ls)
		} else if !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value) {
			err = fmt.Errorf("%w: label %q is not UTF-8", ErrMalformed, l.Name)
		}
		last = l.Name
		size += uint64(len(l.Name) + len(l.Value))
	})
	return size, err
}

// bucketLabel tells apart the buckets of one histogram.
const bucketLabel = "le"

// predict finds the rows that move with the row before them: the buckets of a histogram, and its count. A row is
// predicted by the one before it or the one before that (a sum often stands between), if that is a bucket of the same
// histogram; the nearer one counts.
func (s *Schema) predict() {
	s.pred = make([]uint8, len(s.Series))
	var names [3]string // of the histogram each of the last three rows is a bucket of; "" if none
	for i := range s.Series {
		ls := s.Series[i].Labels
		copy(names[1:], names[:2])
		names[0] = ""
		name := ls.Get(model.MetricNameLabel)
		histogram, ok := strings.CutSuffix(name, "_bucket")
		if ok && ls.Has(bucketLabel) {
			names[0] = histogram
		} else if histogram, ok = strings.CutSuffix(name, "_count"); !ok {
			continue
		}
		for back := 1; back <= 2 && back <= i; back++ {
			if names[back] == histogram && histogram != "" && sameHistogram(ls, s.Series[i-back].Labels) {
				s.pred[i] = uint8(back)
				break
			}
		}
	}
}

// sameHistogram compares two sets of labels without the name and the bound.
func sameHistogram(a, b labels.Labels) bool {
	n := 0
	same := true
	a.Range(func(l labels.Label) {
		if l.Name == model.MetricNameLabel || l.Name == bucketLabel {
			return
		}
		n++
		same = same && b.Get(l.Name) == l.Value && b.Has(l.Name)
	})
	return same && n == b.Len()-2 // b is a bucket and has both
}

// typeNumber is how a type stands on the wire.
func typeNumber(t model.MetricType) byte {
	for n := byte(1); typeName(n) != model.MetricTypeUnknown; n++ {
		if typeName(n) == t {
			return n
		}
	}
	return 0
}

func typeName(n byte) model.MetricType {
	switch n {
	case 1:
		return model.MetricTypeCounter
	case 2:
		return model.MetricTypeGauge
	case 3:
		return model.MetricTypeHistogram
	case 4:
		return model.MetricTypeGaugeHistogram
	case 5:
		return model.MetricTypeSummary
	case 6:
		return model.MetricTypeInfo
	case 7:
		return model.MetricTypeStateset
	default:
		return model.MetricTypeUnknown
	}
}
