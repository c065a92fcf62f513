package record

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/prometheus/prometheus/model/labels"
)

// Frame is a frame of a log with the run that wrote it and the labels of its series.
type Frame struct {
	Entry
	// Run that was given it, from 1.
	InRun int
	// Series are the full labels of its values.
	Series []labels.Labels
}

// Log is a whole log.
type Log struct {
	Runs   int
	Torn   int64
	Frames []Frame
}

// Read reads a log. One that is still being written may end in a record cut short, which is left out.
func Read(path string) (*Log, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	log := &Log{}
	r := bufio.NewReaderSize(file, 1<<20)
	var layouts map[int][]labels.Labels
	for {
		e, _, err := readEntry(r)
		if errors.Is(err, io.EOF) {
			return log, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read log %s: %w", path, err)
		}
		switch e.Kind {
		case KindRun:
			log.Runs++
			log.Torn += e.Torn
			layouts = map[int][]labels.Labels{}
		case KindLayout:
			layouts[e.Layout] = e.Series
		default:
			f := Frame{Entry: e, InRun: log.Runs}
			if e.Layout != 0 {
				f.Series = layouts[e.Layout]
				if len(f.Series) != len(e.Values) {
					return nil, fmt.Errorf("read log %s: frame %d has %d values for %d series", path, len(log.Frames), len(e.Values), len(f.Series))
				}
			}
			log.Frames = append(log.Frames, f)
		}
	}
}

// readEntry reads one record and says how long it was. io.EOF: there is no further whole record.
func readEntry(r *bufio.Reader) (Entry, int64, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Entry{}, 0, io.EOF
	}
	size := binary.LittleEndian.Uint32(head[:])
	if size > maxPayload {
		return Entry{}, 0, fmt.Errorf("record of %d bytes, at most %d are read", size, maxPayload)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return Entry{}, 0, io.EOF
	}
	if got, want := crc32.Checksum(payload, castagnoli), binary.LittleEndian.Uint32(head[4:]); got != want {
		return Entry{}, 0, fmt.Errorf("record with checksum %08x, %08x expected", got, want)
	}
	var e Entry
	line, rest, ok := bytes.Cut(payload, []byte{'\n'})
	if !ok {
		return Entry{}, 0, errors.New("record without a line of JSON")
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, 0, err
	}
	values := len(rest) / 8
	if e.Timestamps {
		values /= 2
	}
	for i := range values {
		e.Values = append(e.Values, math.Float64frombits(binary.LittleEndian.Uint64(rest[8*i:])))
	}
	if e.Timestamps {
		for i := range values {
			e.Times = append(e.Times, int64(binary.LittleEndian.Uint64(rest[8*(values+i):])))
		}
	}
	return e, int64(8 + size), nil
}
