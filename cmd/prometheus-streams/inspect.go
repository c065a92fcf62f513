package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kingpin/v2"
)

// maxMessage bounds what inspect reads: no server takes larger messages.
const maxMessage = 64 << 20

// inspect are the flags of inspect.
type inspect struct {
	file   messageFile
	stream bool
	last   int
}

// messageFile is the name of a file, or -.
type messageFile string

func (m *messageFile) String() string { return string(*m) }

// Set takes the argument; kingpin hands over - as "".
func (m *messageFile) Set(name string) error {
	if name == "" {
		name = "-"
	}
	*m = messageFile(name)
	return nil
}

func inspectCommand(app *kingpin.Application) command {
	f := &inspect{}
	clause := app.Command("inspect", "Print messages as readable text: one from a file, or the last ones of the stream.")
	clause.Arg("file", "File with one message; - is standard input.").SetValue(&f.file)
	clause.Flag("stream", "Read from the stream of the configuration.").BoolVar(&f.stream)
	clause.Flag("last", "How many messages of the stream.").Default("1").PlaceHolder("N").IntVar(&f.last)
	return command{clause, f.run}
}

// run exits with 0 if the message could be read, 1 if it is none of ours or damaged, 2 if there is none to read.
func (f *inspect) run(c *cli) int {
	switch {
	case f.stream == (f.file != ""):
		_, _ = fmt.Fprintln(c.stderr, "prometheus-streams: inspect takes a FILE (or -), or --stream")
		return exitUsage
	case f.stream && f.last < 1:
		_, _ = fmt.Fprintf(c.stderr, "prometheus-streams: --last %d is not a number of messages\n", f.last)
		return exitUsage
	case f.stream:
		return f.fromStream(c)
	}
	data, err := f.read(c.stdin)
	if err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitUnreadable
	}
	if err := dumpMessage(c.stdout, data); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	}
	return exitOK
}

func (f *inspect) read(stdin io.Reader) ([]byte, error) {
	in := stdin
	if f.file != "-" {
		file, err := os.Open(string(f.file))
		if err != nil {
			return nil, fmt.Errorf("read message: %w", err)
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, maxMessage+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read message: %w", err)
	case len(data) > maxMessage:
		return nil, fmt.Errorf("read message: more than %d bytes", maxMessage)
	case len(data) == 0:
		return nil, errors.New("read message: it is empty")
	}
	return data, nil
}

func (f *inspect) fromStream(c *cli) int {
	env, ok := c.streams()
	if !ok {
		return exitUnreadable
	}
	defer env.log.close()
	ctx, stop := handleSignals(context.Background(), env, func() {})
	defer stop()
	if err := inspectStream(ctx, env, f.last, c.stdout); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	}
	return exitOK
}
