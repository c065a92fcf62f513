package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
	"github.com/choria-io/prometheus-streams/internal/stream"
)

// maxBody bounds the uncompressed body of a message of format 1.
const maxBody = 256 << 20

// messages prints messages of the stream, whichever format they have, as text. Frames that build on others are decoded if
// the messages come in their order, and with their schemas if those came before or schema finds them.
type messages struct {
	w      io.Writer
	dumper *frame.Dumper
	parts  stream.Joiner
}

// newMessages prints to w, with values each sample on a line of its own. schema may be nil.
func newMessages(w io.Writer, values bool, schema func(frame.SchemaID) (*frame.Schema, error)) *messages {
	d := frame.NewDumper(w, frame.DefaultLimits(), schema)
	d.Values = values
	return &messages{w: w, dumper: d}
}

// dump prints one message. An error means that it is none of ours or damaged; what could be read of it was printed.
func (m *messages) dump(data []byte) error {
	return m.dumpFrom("", data)
}

// dumpFrom is dump for a message of a subject, on which parts of a larger message follow each other.
func (m *messages) dumpFrom(subject string, data []byte) error {
	if !stream.IsPart(data) {
		return m.dumpWhole(data)
	}
	p, err := stream.ParsePart(data)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(m.w, "part %d of %d, %d bytes of %d\n", p.Number, p.Parts, len(p.Data), p.Size)
	whole, err := m.parts.Add(&stream.Message{Subject: subject, Data: data})
	if whole == nil || err != nil {
		return err
	}
	return m.dumpWhole(whole.Data)
}

func (m *messages) dumpWhole(data []byte) error {
	if start := bytes.TrimLeft(data, " \t\r\n"); len(start) > 0 && start[0] == '{' {
		return dumpFormat1(m.w, data)
	}
	return m.dumper.Message(data)
}

// dumpMessage prints one message that stands alone.
func dumpMessage(w io.Writer, data []byte) error { return newMessages(w, false, nil).dump(data) }

// dumpFormat1 prints a JSON message as 1.0 published it.
func dumpFormat1(w io.Writer, data []byte) error {
	var m struct {
		Job, Instance, Publisher string
		Time                     *int64
		Scrape                   []byte
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("message of format 1: %w", err)
	}
	_, _ = fmt.Fprintf(w, "format 1, %d bytes\n  job        %q\n  instance   %q\n  publisher  %q\n", len(data), m.Job, m.Instance, m.Publisher)
	if m.Time == nil {
		_, _ = fmt.Fprintln(w, "  time       none")
	} else {
		_, _ = fmt.Fprintf(w, "  time       %d (%s)\n", *m.Time, time.Unix(*m.Time, 0).UTC().Format(time.RFC3339))
	}
	zip, err := gzip.NewReader(bytes.NewReader(m.Scrape))
	if err != nil {
		return fmt.Errorf("message of format 1: its Scrape is not gzip: %w", err)
	}
	size, err := io.Copy(io.Discard, io.LimitReader(zip, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("message of format 1: its Scrape is damaged after %d bytes: %w", size, err)
	case size > maxBody:
		return fmt.Errorf("message of format 1: its Scrape has more than %d bytes", maxBody)
	}
	_, _ = fmt.Fprintf(w, "  Scrape     %d bytes, %d of text\n", len(m.Scrape), size)
	return nil
}
