package spool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/tsdb/wlog"
	"github.com/prometheus/prometheus/util/compression"
)

// segmentLog is what Disk needs of a write-ahead log.
type segmentLog interface {
	// Log writes records to the current segment.
	Log(records ...[]byte) error
	// NextSegment begins a new segment and returns its number.
	NextSegment() (int, error)
	// Repair cuts the damage off that an error tells of, which is in the newest segment but the empty one.
	Repair(error) error
	Close() error
}

// openWAL opens Prometheus' log; it always begins a new segment. Disk itself decides when a segment is full.
func openWAL(dir string, _ int) (segmentLog, error) {
	return wlog.NewSize(nil, nil, dir, math.MaxInt32/pageSize*pageSize, compression.None)
}

// segment is one file of the log.
type segment struct {
	index       int
	path        string
	first, last Position // of its records; 0 if it has none
	bytes       int64
	oldest      time.Duration // clock of the first record
	newest      time.Duration // and of the last one, as far as known
	// counted: held and schemas are known. held is what of it is neither trimmed nor dropped.
	counted bool
	recount bool // held is no longer exact
	held    counts
	schemas map[string]struct{}
}

func (s *segment) name(ids []string) {
	for _, id := range ids {
		if s.schemas == nil {
			s.schemas = map[string]struct{}{}
		}
		s.schemas[id] = struct{}{}
	}
}

// found is what looking through a segment gives.
type found struct {
	first, last    Position
	oldest, newest time.Duration
	held           counts // of those after some position
	total          counts
	schemas        []string
	newestRecord   *Record // if wanted
	damage         error   // what ended the reading before the end
}

// lookThrough reads a segment.
func lookThrough(path string, floor Position, wantNewest bool) (found, error) {
	f, err := os.Open(path)
	if err != nil {
		return found{}, err
	}
	defer f.Close()
	return findIn(bufio.NewReaderSize(f, 4*pageSize), floor, wantNewest), nil
}

func findIn(segment io.Reader, floor Position, wantNewest bool) found {
	var out found
	names := map[string]struct{}{}
	r := newSegmentReader(segment)
	for {
		e, err := r.next(!wantNewest)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			out.damage = err
			return out
		}
		if out.first == 0 {
			out.first, out.oldest = e.Position, e.clock
		}
		out.last, out.newest = e.Position, e.clock
		if e.gap {
			continue
		}
		out.total.add(e.counts())
		if e.Position > floor {
			out.held.add(e.counts())
		}
		for _, id := range e.Schemas {
			if _, known := names[id]; !known {
				names[id] = struct{}{}
				out.schemas = append(out.schemas, id)
			}
		}
		if wantNewest {
			if out.newestRecord == nil {
				out.newestRecord = &Record{}
			}
			e.Message = append(out.newestRecord.Message[:0], e.Message...)
			*out.newestRecord = e.Record
		}
	}
}

// firstRecord reads the beginning of a segment.
func firstRecord(path string) (stamped, error) {
	f, err := os.Open(path)
	if err != nil {
		return stamped{}, err
	}
	defer f.Close()
	return newSegmentReader(bufio.NewReaderSize(f, pageSize)).next(true)
}

// listSegments lists the files of a log in order. wlog wants their numbers without a hole, so holes are closed.
func listSegments(dir string) ([]*segment, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []*segment
	for _, f := range files {
		i, err := strconv.Atoi(f.Name())
		if err != nil || i < 0 {
			continue
		}
		info, err := f.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, &segment{index: i, path: filepath.Join(dir, f.Name()), bytes: info.Size()})
	}
	slices.SortFunc(out, func(a, b *segment) int { return a.index - b.index })
	for i, s := range out[:max(0, len(out)-1)] {
		next := out[i+1]
		if next.index == s.index+1 {
			continue
		}
		path := wlog.SegmentName(dir, s.index+1)
		if err := os.Rename(next.path, path); err != nil {
			return nil, err
		}
		next.index, next.path = s.index+1, path
	}
	return out, nil
}

// openSegments finds what is there and begins a new segment.
func (d *Disk) openSegments() error {
	segments, err := listSegments(d.walDir())
	if err != nil {
		return err
	}
	for _, s := range segments {
		if s.bytes == 0 { // of a start after which nothing was appended
			if err := os.Remove(s.path); err != nil {
				return err
			}
		}
	}
	if segments, err = listSegments(d.walDir()); err != nil {
		return err
	}
	if d.wal, err = d.opts.openLog(d.walDir(), int(d.segmentSize)); err != nil {
		return err
	}
	if n := len(segments); n > 0 {
		if err := d.openNewest(segments[n-1]); err != nil {
			return err
		}
		for i := n - 2; i >= 0 && d.previous == nil; i-- {
			f, err := lookThrough(segments[i].path, d.floor, true)
			if err != nil {
				return err
			}
			d.previous = f.newestRecord
		}
	}
	d.placeSegments(segments)
	d.last = max(d.saved, d.floor)
	d.saved = d.last
	d.segments = append(segments, d.newSegment(nextIndex(segments)))
	return nil
}

func nextIndex(segments []*segment) int {
	if n := len(segments); n > 0 {
		return segments[n-1].index + 1
	}
	return 0
}

func (d *Disk) newSegment(index int) *segment {
	return &segment{index: index, path: wlog.SegmentName(d.walDir(), index), counted: true, oldest: d.clock(), newest: d.clock()}
}

// openNewest reads the newest segment whole, and mends its end.
func (d *Disk) openNewest(s *segment) error {
	f, err := lookThrough(s.path, d.floor, true)
	if err != nil {
		return err
	}
	if f.damage != nil {
		d.log.Warn("the newest records of the spool are damaged, as after a crash: they are cut off", "file", s.path, "error", f.damage)
		if repairable := damageOf(s.path); repairable != nil {
			if err := d.wal.Repair(repairable); err != nil {
				return fmt.Errorf("repair %s: %w", s.path, err)
			}
		}
	}
	s.apply(f)
	if f.last > 0 {
		d.previous = f.newestRecord
		d.clockBase = max(d.clockBase, f.newest)
		d.saved = f.last
	}
	return nil
}

// damageOf gives wlog's error for a segment, with the place that its Repair needs; nil if wlog has none.
func damageOf(path string) error {
	s, err := wlog.OpenReadSegment(path)
	if err != nil {
		return nil
	}
	rd := wlog.NewSegmentBufReader(s)
	defer rd.Close()
	r := wlog.NewReader(rd)
	for r.Next() {
	}
	return r.Err()
}

// apply takes over what was found in a segment.
func (s *segment) apply(f found) {
	s.first, s.last, s.held, s.counted, s.recount = f.first, f.last, f.held, true, false
	s.schemas = nil
	s.name(f.schemas)
	if f.first > 0 {
		s.oldest, s.newest = f.oldest, f.newest
	}
}

// placeSegments finds out which positions lie where, by the first record of each segment.
func (d *Disk) placeSegments(segments []*segment) {
	for i, s := range segments[:max(0, len(segments)-1)] {
		if e, err := firstRecord(s.path); err == nil {
			s.first, s.oldest = e.Position, e.clock
		} else if i > 0 { // its damage is counted in its turn
			before := segments[i-1]
			if f, err := lookThrough(before.path, d.floor, false); err == nil && f.last > 0 {
				before.apply(f)
				s.first, s.oldest = f.last+1, f.newest
			}
		}
	}
	for i := len(segments) - 2; i >= 0; i-- {
		s, next := segments[i], segments[i+1]
		s.newest = max(s.oldest, next.oldest)
		if next.first > 0 {
			s.last = max(s.last, next.first-1)
		}
		s.last = max(s.last, s.first)
		d.saved = max(d.saved, s.last)
		d.clockBase = max(d.clockBase, s.oldest)
	}
}

// look looks through the segments that were there at start. It rests after each for as long as that took: who starts has
// other things to do.
func (d *Disk) look() {
	d.mu.Lock()
	segments := slices.Clone(d.segments)
	d.mu.Unlock()
	began := time.Now()
	for _, s := range segments {
		select {
		case <-d.stop:
			return
		case <-time.After(time.Since(began)):
		}
		began = time.Now()
		d.mu.Lock()
		counted, floor := s.counted, d.floor
		d.mu.Unlock()
		if counted {
			continue
		}
		f, err := lookThrough(s.path, floor, false)
		d.mu.Lock()
		if !s.counted && slices.Contains(d.segments, s) {
			if floor != d.floor && d.floor >= s.first {
				d.count(s)
			} else {
				d.settle(s, f, err)
			}
		}
		d.mu.Unlock()
	}
}

// count looks through a segment again; mu is held.
func (d *Disk) count(s *segment) {
	f, err := lookThrough(s.path, d.floor, false)
	d.settle(s, f, err)
}

// settle compares what a segment holds with what it should, and counts what is missing; mu is held.
func (d *Disk) settle(s *segment, f found, err error) {
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.diskError(opRead)
		return // it may be readable later
	}
	var lost counts
	if s.counted && !s.recount {
		lost = s.held.less(f.held)
	} else if from := max(f.last, d.floor, s.first-1); s.last > from {
		lost.records = int(s.last - from)
	}
	if lost.records == 0 && err == nil {
		last := max(s.last, f.last)
		s.apply(f)
		s.last = last
		return
	}
	if s.first == 0 || err != nil {
		f.first = s.first
	}
	last := max(s.last, f.last) // later positions are not there, but this is where they would be
	s.apply(f)
	s.last = last
	if lost.records > 0 {
		d.metrics.corruptSegments.Inc()
		d.log.Error("a segment of the spool is damaged: the rest of it is passed over", "file", s.path,
			"count", lost.records, "error", errors.Join(err, f.damage))
		d.voice.lose(reasonCorrupt, lost)
	}
}
