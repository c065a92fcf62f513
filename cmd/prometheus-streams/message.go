package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// maxBody bounds the uncompressed body of a message of format 1.
const maxBody = 256 << 20

// dumpMessage prints one message of the stream, whichever format it has, as text. An error means that the message is
// none of ours or damaged; what could be read of it was printed.
func dumpMessage(w io.Writer, data []byte) error {
	if start := bytes.TrimLeft(data, " \t\r\n"); len(start) > 0 && start[0] == '{' {
		return dumpFormat1(w, data)
	}
	return dumpBundle(w, data)
}

// dumpBundle prints what a bundle says of itself and of its frames.
func dumpBundle(w io.Writer, data []byte) error {
	b, err := frame.ParseBundle(data, frame.DefaultLimits())
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "bundle, %d bytes\n  publisher  %q\n  lane       %q\n  epoch      %x\n  seq        %d\n", len(data), b.Publisher, b.Lane, b.Epoch, b.Seq)
	for f, err := range b.Frames() {
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(w, "  frame      type %d, target %d, position %d, time %s, %d bytes\n",
			f.Type, f.Target, f.Position, time.UnixMilli(f.Time).UTC().Format(time.RFC3339Nano), len(f.Body))
	}
	return nil
}

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
