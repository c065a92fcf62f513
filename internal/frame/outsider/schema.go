package outsider

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Schema is the series of a target's scrapes.
type Schema struct {
	ID       ID
	Families []Family
	Series   []Series
	content  []byte // canonical
	pred     []int  // the series that predicts each, −1 for none
}

// Family is a metric family; types are numbered as on the page.
type Family struct {
	Name, Help, Unit string
	Type             byte
}

// Series is one series. Family is −1 for none, Base the bits of the base value.
type Series struct {
	Labels []Label
	Family int
	Base   uint64
}

const (
	formChange byte = 1 << iota
	formCompressed
)

const maxContent = 64 << 20

// Schema reads a schema and keeps it for the frames and schemas that name it. Parents have to be read before.
func (r *Reader) Schema(message []byte) (s *Schema, err error) {
	defer catch(&err)
	in := &input{message}
	must(string(in.take(3)) == "PSS", "no schema")
	version := in.byte()
	known(version == 2, "version %d", version)
	form := in.byte()
	known(form&^(formChange|formCompressed) == 0, "form %#x", form)
	var parent *Schema
	var dictionary []byte
	if form&formChange != 0 {
		id := in.id()
		if parent = r.schemas[id]; parent == nil {
			return nil, fmt.Errorf("parent %x is not known", id)
		}
		dictionary = parent.content
	}
	size := in.uvarint()
	must(size <= maxContent, "content of %d bytes", size)
	data := in.b
	if form&formCompressed != 0 {
		data = decompress(data, dictionary, size)
	}
	must(uint64(len(data)) == size, "content of %d bytes, not %d", len(data), size)
	s = readContent(&input{data}, parent)
	s.content = s.canonical()
	must(parent != nil || string(s.content) == string(data), "the content is not canonical")
	sum := sha256.Sum256(append([]byte("prometheus-streams schema 2\n"), s.content...))
	copy(s.ID[:], sum[:])
	s.pred = s.predictors()
	r.schemas[s.ID] = s
	return s, nil
}

func decompress(data, dictionary []byte, size uint64) []byte {
	options := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxContent)}
	if dictionary != nil {
		options = append(options, zstd.WithDecoderDictRaw(0, dictionary))
	}
	d, err := zstd.NewReader(nil, options...)
	must(err == nil, "zstd: %v", err)
	defer d.Close()
	out, err := d.DecodeAll(data, make([]byte, 0, size))
	must(err == nil, "zstd: %v", err)
	return out
}

// readContent reads content, or the change of a parent if there is one.
func readContent(in *input, parent *Schema) *Schema {
	s, old := new(Schema), new(Schema)
	families, series := script{}, script{}
	if parent == nil {
		families.inserted = ordinals(in.count(32))
	} else {
		old = parent
		families = in.script(len(old.Families))
	}
	s.Families = merge(families, old.Families, func(int, []Family) Family {
		return Family{Name: in.string(), Type: in.byte(), Help: in.string(), Unit: in.string()}
	})
	moved := places(families, len(old.Families))
	if parent == nil {
		series.inserted = ordinals(in.count(24 + 2))
	} else {
		series = in.script(len(old.Series))
	}
	kept := slices.Clone(old.Series)
	for i := range kept {
		if f := kept[i].Family; f >= 0 {
			kept[i].Family = moved[f]
		}
	}
	s.Series = merge(series, kept, func(at int, before []Series) Series {
		previous := Series{Family: -1}
		if at > 0 {
			previous = before[at-1]
		}
		return readSeries(in, previous, len(s.Families))
	})
	classes := in.take(uint64(len(series.inserted)))
	for i, at := range series.inserted {
		must(validClass(classes[i]), "class %#x", classes[i])
		if classes[i] == classFloat {
			s.Series[at].Base = in.u64()
		} else {
			s.Series[at].Base = valueOf(classes[i], in.varint())
		}
	}
	in.done("the content")
	for _, x := range s.Series {
		must(x.Family >= -1 && x.Family < len(s.Families), "family %d of %d", x.Family, len(s.Families))
	}
	return s
}

func readSeries(in *input, previous Series, families int) Series {
	family := int64(previous.Family) + in.varint()
	must(family >= -1 && family < int64(families), "family %d of %d", family, families)
	shared := in.uvarint()
	must(shared <= uint64(len(previous.Labels)), "%d labels shared of %d", shared, len(previous.Labels))
	x := Series{Family: int(family), Labels: slices.Clone(previous.Labels[:shared])}
	for range in.count(16) {
		x.Labels = append(x.Labels, Label{in.string(), in.string()})
	}
	must(slices.IsSortedFunc(x.Labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) }), "labels are not in order")
	return x
}

func ordinals(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// places tells where each element of the old list stands in the new one; −2 if it is gone.
func places(s script, old int) []int {
	list := make([]int, old)
	for i := range list {
		list[i] = -2
	}
	merged := merge(s, ordinals(old), func(int, []int) int { return -1 })
	for at, from := range merged {
		if from >= 0 {
			list[from] = at
		}
	}
	return list
}

// canonical writes the content that the id is made of.
func (s *Schema) canonical() []byte {
	str := func(b []byte, s string) []byte { return append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	b := binary.AppendUvarint(nil, uint64(len(s.Families)))
	for _, f := range s.Families {
		b = str(str(append(str(b, f.Name), f.Type), f.Help), f.Unit)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Series)))
	previous := Series{Family: -1}
	for _, x := range s.Series {
		b = binary.AppendUvarint(b, zigzag(int64(x.Family-previous.Family)))
		shared := 0
		for shared < len(x.Labels) && shared < len(previous.Labels) && x.Labels[shared] == previous.Labels[shared] {
			shared++
		}
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(shared)), uint64(len(x.Labels)-shared))
		for _, l := range x.Labels[shared:] {
			b = str(str(b, l.Name), l.Value)
		}
		previous = x
	}
	for _, x := range s.Series {
		b = append(b, classOf(x.Base))
	}
	for _, x := range s.Series {
		class := classOf(x.Base)
		m, _ := integerOf(class, x.Base)
		if class == classFloat {
			b = binary.LittleEndian.AppendUint64(b, x.Base)
		} else {
			b = binary.AppendUvarint(b, zigzag(m))
		}
	}
	return b
}

// classOf is the class of a base value.
func classOf(value uint64) byte {
	for class := byte(0); class <= decimalLast; class++ {
		m, ok := integerOf(class, value)
		switch {
		case !ok:
		case class > 0 || m == 0:
			return class
		case m%4096 == 0:
			return 0x1c
		case m%1024 == 0:
			return 0x1a
		default:
			return 0
		}
	}
	return classFloat
}

// predictors gives for each series the one that predicts it, −1 for none.
func (s *Schema) predictors() []int {
	list := make([]int, len(s.Series))
	for i := range s.Series {
		list[i] = -1
		for back := 1; back <= 2 && back <= i && list[i] < 0; back++ {
			if predicts(s.Series[i-back].Labels, s.Series[i].Labels) {
				list[i] = i - back
			}
		}
	}
	return list
}

// predicts tells whether a bucket predicts a series.
func predicts(bucket, series []Label) bool {
	name, isBucket := strings.CutSuffix(labelOf(bucket, "__name__"), "_bucket")
	if !isBucket || name == "" || !hasLabel(bucket, "le") {
		return false
	}
	switch labelOf(series, "__name__") {
	case name + "_bucket":
		if !hasLabel(series, "le") {
			return false
		}
	case name + "_count":
	default:
		return false
	}
	return slices.Equal(others(bucket), others(series))
}

func hasLabel(labels []Label, name string) bool {
	return slices.ContainsFunc(labels, func(l Label) bool { return l.Name == name })
}

func labelOf(labels []Label, name string) string {
	for _, l := range labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// others are the labels besides the name and le.
func others(labels []Label) []Label {
	return slices.DeleteFunc(slices.Clone(labels), func(l Label) bool { return l.Name == "__name__" || l.Name == "le" })
}
