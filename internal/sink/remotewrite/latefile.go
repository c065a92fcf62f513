package remotewrite

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	// lateFileSize and lateFileAge bound a file: above, the next one is begun.
	lateFileSize = 8 << 20
	lateFileAge  = 5 * time.Minute
	// lateOpen bounds the files that are written at a time: one for each publisher.
	lateOpen = 16
	// lateLeast is what a file counts at least, so that their number is bounded too.
	lateLeast = 4 << 10
	// defaultLateMaxSize is Options.LateMaxSize if it is 0.
	defaultLateMaxSize = 1 << 30
	// lateScanEvery is how often a full directory is looked at: files may have been taken away.
	lateScanEvery = 10 * time.Second

	lateSuffix = ".om"
	lateEnd    = "# EOF\n"
	partSuffix = lateSuffix + ".part"
	// longestPublisher bounds a publisher's name in that of a file.
	longestPublisher = 120
)

var (
	errLateFull      = errors.New("the directory for late data holds as much as late_max_size allows")
	errLateRepeat    = errors.New("the sample is in the file")
	errLateDuplicate = errors.New("another sample of the same time is in the file")
)

// lateStore is a directory of files NAME.PUBLISHER.TIME.om; what is being written has .part behind. In a file the
// samples of a series stand in the order of their times, as promtool wants them. It is for one goroutine.
type lateStore struct {
	directory, name string
	max, total      int64
	scanned         time.Time
	files           map[string]*lateFile
	failed          map[string]error // since the last sync
	seed            maphash.Seed
}

// lateFile is one that is being written.
type lateFile struct {
	file    *os.File
	w       *bufio.Writer
	size    int64 // with what is in w
	synced  int64
	created time.Time
	used    time.Time
	dirty   bool
	last    map[uint64]lastSample
}

type lastSample struct {
	ms   int64
	bits uint64
}

// openLateStore makes the directory and completes files that a process left unfinished.
func openLateStore(directory, name string, most int64) (*lateStore, error) {
	if most <= 0 {
		most = defaultLateMaxSize
	}
	if err := os.MkdirAll(directory, 0o750); err != nil {
		return nil, fmt.Errorf("late_directory: %w", err)
	}
	s := &lateStore{
		directory: directory, name: name, max: most, files: make(map[string]*lateFile),
		failed: make(map[string]error), seed: maphash.MakeSeed(),
	}
	left, err := filepath.Glob(filepath.Join(directory, "*"+partSuffix))
	if err != nil {
		return nil, fmt.Errorf("late_directory: %w", err)
	}
	for _, path := range left {
		if !strings.HasPrefix(filepath.Base(path), name+".") {
			continue
		}
		if err := finishLeft(path); err != nil {
			return nil, fmt.Errorf("late_directory: %w", err)
		}
	}
	return s, s.scan(time.Now())
}

// finishLeft cuts off a line that is not whole, and ends the file.
func finishLeft(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	end, ended, err := wholeLines(f)
	if err == nil && end == 0 {
		return errors.Join(f.Close(), os.Remove(path))
	}
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil && !ended {
		_, err = f.WriteAt([]byte(lateEnd), end)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path, strings.TrimSuffix(path, ".part"))
}

// wholeLines tells where the last line that is whole ends, 0 if there is none, and whether it is the end of such a file. It
// reads from the end of the file, which may be large.
func wholeLines(f *os.File) (end int64, ended bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	buf := make([]byte, 64<<10)
	for at := info.Size(); at > 0 && end == 0; {
		part := buf[:min(at, int64(len(buf)))]
		at -= int64(len(part))
		if _, err := f.ReadAt(part, at); err != nil {
			return 0, false, err
		}
		end = at + int64(bytes.LastIndexByte(part, '\n')) + 1
		if end == at { // no line ends in this part
			end = 0
		}
	}
	if end < int64(len(lateEnd)) {
		return end, false, nil
	}
	last := make([]byte, len(lateEnd))
	_, err = f.ReadAt(last, end-int64(len(last)))
	return end, string(last) == lateEnd, err
}

// scan adds up what is in the directory.
func (s *lateStore) scan(now time.Time) error {
	s.scanned, s.total = now, 0
	entries, err := os.ReadDir(s.directory)
	if err != nil {
		return fmt.Errorf("late_directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), s.name+".") || !strings.HasSuffix(e.Name(), lateSuffix) {
			continue
		}
		if info, err := e.Info(); err == nil {
			s.total += max(info.Size(), lateLeast)
		}
	}
	for _, f := range s.files {
		s.total += max(f.size, lateLeast)
	}
	return nil
}

// add writes a line, of which the first bytes name the series.
func (s *lateStore) add(publisher string, line []byte, series int, ms int64, bits uint64) error {
	f := s.files[publisher]
	hash := maphash.Bytes(s.seed, line[:series])
	if f != nil {
		if last, ok := f.last[hash]; ok && ms <= last.ms {
			if ms == last.ms && bits == last.bits {
				return errLateRepeat
			}
			if ms == last.ms {
				return errLateDuplicate
			}
			s.end(publisher)
			f = nil
		} else if f.size+int64(len(line)) > lateFileSize {
			s.end(publisher)
			f = nil
		}
	}
	now := time.Now()
	if f == nil {
		if err := s.room(lateLeast, now); err != nil {
			return err
		}
		var err error
		if f, err = s.open(publisher, now); err != nil {
			return err
		}
		s.total += lateLeast
	}
	grown := max(f.size+int64(len(line)), lateLeast) - max(f.size, lateLeast)
	if err := s.room(grown, now); err != nil {
		return err
	}
	if _, err := f.w.Write(line); err != nil {
		s.fail(publisher, err)
		return err
	}
	f.size += int64(len(line))
	s.total += grown
	f.dirty, f.used = true, now
	f.last[hash] = lastSample{ms, bits}
	return nil
}

// room tells whether so much more may be written.
func (s *lateStore) room(n int64, now time.Time) error {
	if s.total+n <= s.max {
		return nil
	}
	if d := now.Sub(s.scanned); d >= lateScanEvery || d < 0 {
		if err := s.scan(now); err != nil {
			return err
		}
	}
	if s.total+n > s.max {
		return fmt.Errorf("%w: %d bytes and %d more, the limit is %d", errLateFull, s.total, n, s.max)
	}
	return nil
}

// open begins a file for a publisher. If too many are open, the one that was not used for longest is ended.
func (s *lateStore) open(publisher string, now time.Time) (*lateFile, error) {
	if len(s.files) >= lateOpen {
		oldest := ""
		for p, f := range s.files {
			if oldest == "" || f.used.Before(s.files[oldest].used) {
				oldest = p
			}
		}
		s.end(oldest)
	}
	base := filepath.Join(s.directory, s.name+"."+encodePublisher(publisher)+"."+strconv.FormatInt(now.UnixMilli(), 10))
	for n := 0; ; n++ {
		path := base
		if n > 0 {
			path += "-" + strconv.Itoa(n)
		}
		if _, err := os.Lstat(path + lateSuffix); err == nil {
			continue
		}
		file, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f := &lateFile{file: file, w: bufio.NewWriterSize(file, 64<<10), created: now, used: now, last: make(map[uint64]lastSample)}
		s.files[publisher] = f
		return f, nil
	}
}

// sync has the disk keep all that was written, and gives the publishers of which something was lost since the last time.
func (s *lateStore) sync() map[string]error {
	for publisher, f := range s.files {
		if !f.dirty {
			continue
		}
		f.dirty = false
		if err := errors.Join(f.w.Flush(), f.file.Sync()); err != nil {
			s.fail(publisher, err)
			continue
		}
		f.synced = f.size
	}
	failed := s.failed
	s.failed = make(map[string]error)
	return failed
}

// end completes a publisher's file.
func (s *lateStore) end(publisher string) {
	f := s.files[publisher]
	delete(s.files, publisher)
	_, err := f.w.WriteString(lateEnd)
	if err = errors.Join(err, f.w.Flush(), f.file.Sync(), f.file.Close()); err == nil {
		path := f.file.Name()
		err = os.Rename(path, strings.TrimSuffix(path, ".part"))
	}
	if err != nil {
		s.failed[publisher] = err // what is left is completed at the next start
		return
	}
	s.total += int64(len(lateEnd))
}

// fail gives up a file that cannot be written: what the disk has of it is completed, now or at the next start.
func (s *lateStore) fail(publisher string, err error) {
	s.failed[publisher] = err
	f := s.files[publisher]
	if f == nil {
		return
	}
	delete(s.files, publisher)
	path := f.file.Name()
	s.total -= max(f.size, lateLeast) - max(f.synced, lateLeast)
	if errors.Join(f.file.Truncate(f.synced), f.file.Close()) == nil {
		_ = finishLeft(path) // if it fails, the next start does it
	}
}

// close completes files that were begun before a time; all of them if it is zero.
func (s *lateStore) close(before time.Time) error {
	for publisher, f := range s.files {
		if before.IsZero() || f.created.Before(before) {
			s.end(publisher)
		}
	}
	var errs []error
	for _, err := range s.failed {
		errs = append(errs, err)
	}
	s.failed = make(map[string]error)
	return errors.Join(errs...)
}

// encodePublisher writes everything but letters, digits, - and _ as % and two hex digits, as in subjects. A name that
// becomes too long for a file ends with its hash.
func encodePublisher(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	text := b.String()
	if len(text) > longestPublisher {
		text = fmt.Sprintf("%s~%016x", text[:longestPublisher], xxhash.Sum64String(name))
	}
	return text
}
