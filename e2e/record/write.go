package record

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/sink"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Writer appends to a log. It may be used from several goroutines.
type Writer struct {
	mu      sync.Mutex
	file    *os.File
	layouts map[layoutKey]int
	buf     []byte
}

// layoutKey names what gives a frame its series' full labels.
type layoutKey struct {
	target string
	schema frame.SchemaID
}

// Open opens a log for appending, made if it is not there, and begins a run.
func Open(path string) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	runs, torn, err := mend(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	w := &Writer{file: file, layouts: map[layoutKey]int{}}
	if err := w.write(Entry{Kind: KindRun, Run: runs + 1, Torn: torn, Delivered: time.Now()}); err != nil {
		file.Close()
		return nil, err
	}
	return w, nil
}

// mend counts the runs, takes a record cut short off the end and leaves the file positioned there.
func mend(file *os.File) (runs int, torn int64, err error) {
	var end int64
	r := bufio.NewReader(file)
	for {
		entry, size, err := readEntry(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
		if entry.Kind == KindRun {
			runs++
		}
		end += size
	}
	info, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	torn = info.Size() - end
	if err := file.Truncate(end); err != nil {
		return 0, 0, err
	}
	_, err = file.Seek(end, io.SeekStart)
	return runs, torn, err
}

// Deliver writes one frame; when it returns nil, the frame survives the end of the process.
func (w *Writer) Deliver(d sink.Delivery) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := d.Frame
	e := Entry{
		Publisher: d.Publisher, Lane: d.Lane, Epoch: d.Epoch, Seq: d.Seq, Stored: d.Stored, Repeated: d.Repeated,
		Delivered: time.Now(), Position: f.Position, Time: f.Time, Reason: uint8(f.Reason),
		Duration: f.Report.Duration, Scraped: f.Report.Scraped, PostRelabel: f.Report.PostRelabel, Added: f.Report.Added,
	}
	if f.Target != nil {
		e.TargetID, e.Target = f.Target.ID, f.Target.Labels
	}
	switch f.Kind {
	case frame.Scraped:
		e.Kind = KindScraped
		if err := w.column(&e, f); err != nil {
			return err
		}
	case frame.Down:
		e.Kind = KindDown
	case frame.End:
		e.Kind = KindEnd
	case frame.EpochEnd:
		e.Kind = KindEpochEnd
	default:
		return fmt.Errorf("frame of unknown kind %d", f.Kind)
	}
	return w.write(e)
}

// column adds the samples of a frame, and writes its layout first if this run has not yet.
func (w *Writer) column(e *Entry, f *frame.Frame) error {
	key := layoutKey{target: f.Target.Labels.String(), schema: f.Schema.ID}
	number, known := w.layouts[key]
	if !known {
		number = len(w.layouts) + 1
		layout := Entry{Kind: KindLayout, Layout: number}
		b := labels.NewBuilder(labels.EmptyLabels())
		for i := range f.Schema.Series {
			layout.Series = append(layout.Series, f.Schema.SeriesLabels(i, f.Target.Labels, b))
		}
		if err := w.write(layout); err != nil {
			return err
		}
		w.layouts[key] = number
	}
	e.Layout, e.Values, e.Times = number, f.Column.Values, f.Column.Timestamps
	e.Timestamps = e.Times != nil
	for i := range f.Column.Values {
		if f.Column.Absent.Has(i) {
			e.Absent = append(e.Absent, i)
		}
	}
	return nil
}

// write appends one record with one write(2).
func (w *Writer) write(e Entry) error {
	header, err := json.Marshal(e)
	if err != nil {
		return err
	}
	b := append(w.buf[:0], make([]byte, 8)...)
	b = append(b, header...)
	b = append(b, '\n')
	for _, v := range e.Values {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	}
	for _, ts := range e.Times {
		b = binary.LittleEndian.AppendUint64(b, uint64(ts))
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	w.buf = b
	_, err = w.file.Write(b)
	return err
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }
