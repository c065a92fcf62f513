package pushgateway

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/choria-io/prometheus-streams/internal/redact"
)

// The list of groups is a text file to which lines are appended:
//
//	line = crc32c of the rest in 8 hexadecimal digits, space, JSON object, newline
//
//	{"url":"http://gateway:9091"}                                   the first line
//	{"group":"/metrics/job/a/instance/b","target":"…","interval_ms":15000}  the group belongs to that target
//	{"group":"/metrics/job/a/instance/b"}                           the group is forgotten
//
// A later line of a group replaces the earlier ones. Lines that cannot be read are skipped: they cost the memory of one
// group. The file is written anew when most of it is out of date.
const (
	stateFile = "pushgateway-groups"
	maxLine   = 64 << 10
	// rewriteAfter is how many lines may be out of date before the file is written anew.
	rewriteAfter = 1000
	// longestInterval bounds what is believed of a target's interval.
	longestInterval = 24 * time.Hour
)

// record is what is remembered of a group; the zero value is of one that is forgotten.
type record struct {
	Target string `json:"target,omitempty"`
	// Interval of the target's scrapes in milliseconds.
	Interval int64 `json:"interval_ms,omitempty"`
	// Paused: nothing is expected to come.
	Paused bool `json:"paused,omitempty"`
}

type stateLine struct {
	URL   string `json:"url,omitempty"`
	Group string `json:"group,omitempty"`
	record
}

// state is the open file. It is for concurrent use.
type state struct {
	path, url string

	mu      sync.Mutex
	file    *os.File
	records map[string]record
	lines   int
	dirty   bool // not on the disk for sure
	torn    bool // the file may end within a line
}

// openState reads the file in dir, if there is one of the same gateway, and opens it for appending.
func openState(dir, url string, logger *slog.Logger) (map[string]record, *state, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, nil, fmt.Errorf("push_gateway state: %w", err)
	}
	st := &state{path: filepath.Join(dir, stateFile), url: url, records: make(map[string]record)}
	f, err := os.Open(st.path)
	switch {
	case err == nil:
		from, records, bad, err := readState(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("push_gateway state: %w", err)
		}
		if bad > 0 {
			logger.Warn("part of the list of groups cannot be read", "file", st.path, "count", bad)
		}
		if from == url {
			st.records = records
		} else if len(records) > 0 {
			logger.Warn("the remembered groups are those of another Push Gateway and are left there",
				"file", st.path, "from", redact.Text(from), "to", redact.Text(url), "count", len(records))
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, nil, fmt.Errorf("push_gateway state: %w", err)
	}
	if err := st.rewrite(); err != nil {
		return nil, nil, fmt.Errorf("push_gateway state: %w", err)
	}
	known := make(map[string]record, len(st.records))
	for k, v := range st.records {
		known[k] = v
	}
	return known, st, nil
}

// readState reads a list. bad is the number of lines that are not one; err is only an error of reading.
func readState(r io.Reader) (url string, records map[string]record, bad int, err error) {
	records = make(map[string]record)
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			bad++
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = b.ReadSlice('\n')
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, io.EOF) {
				return url, records, bad, err
			}
			return url, records, bad, nil
		case errors.Is(err, io.EOF):
			if len(line) > 0 {
				bad++ // a line that a stop has cut
			}
			return url, records, bad, nil
		case err != nil:
			return url, records, bad, err
		}
		l, ok := parseLine(bytes.TrimSuffix(line, []byte("\n")))
		switch {
		case !ok:
			bad++
		case l.Group == "":
			url = l.URL
		case l.Target == "":
			delete(records, l.Group)
		case len(records) >= maxGroups:
			bad++
		default:
			records[l.Group] = l.record
		}
	}
}

func parseLine(line []byte) (l stateLine, ok bool) {
	sum, text, ok := bytes.Cut(line, []byte(" "))
	if !ok || string(sum) != checksum(text) || json.Unmarshal(text, &l) != nil {
		return l, false
	}
	if l.Group == "" {
		return l, l.URL != ""
	}
	if _, err := parsePath(l.Group); err != nil {
		return l, false
	}
	if l.Target == "" {
		return l, true
	}
	_, err := parseTargetID(l.Target)
	return l, err == nil && l.Interval > 0 && l.Interval <= longestInterval.Milliseconds()
}

func checksum(text []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
}

func parseTargetID(s string) (id targetID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("target id %.50q is not %d hexadecimal digits", s, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

func appendLine(dst []byte, l stateLine) []byte {
	text, _ := json.Marshal(l) // strings and numbers only
	dst = append(dst, checksum(text)...)
	dst = append(dst, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// write appends what is to be remembered of a group.
func (st *state) write(path string, r record) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if r == (record{}) {
		delete(st.records, path)
	} else {
		st.records[path] = r
	}
	st.lines++
	st.dirty = true
	line := appendLine(nil, stateLine{Group: path, record: r})
	if st.torn {
		line = append([]byte("\n"), line...)
	}
	n, err := st.file.Write(line)
	st.torn = err != nil && (n > 0 || st.torn)
	return err
}

// sync brings the file onto the disk and writes it anew if it is long for the number of groups.
func (st *state) sync(groups int) error {
	st.mu.Lock()
	if st.lines > 2*groups+rewriteAfter || st.torn {
		defer st.mu.Unlock()
		return st.rewrite()
	}
	file, dirty := st.file, st.dirty
	st.dirty = false
	st.mu.Unlock()
	if !dirty {
		return nil
	}
	return file.Sync() // Run alone syncs and closes, so the file stays open
}

// rewrite writes the file anew beside the old one and takes its place. st.mu is held, or nobody else has st yet.
func (st *state) rewrite() error {
	buf := appendLine(nil, stateLine{URL: st.url})
	for path, r := range st.records {
		buf = appendLine(buf, stateLine{Group: path, record: r})
	}
	name := st.path + ".new"
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(buf)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = os.Rename(name, st.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	if st.file != nil {
		st.file.Close()
	}
	st.file, st.lines, st.dirty, st.torn = f, len(st.records), false, false
	return syncDir(filepath.Dir(st.path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (st *state) close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return errors.Join(st.file.Sync(), st.file.Close())
}
