package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// maxMessage bounds what inspect reads: no server takes larger messages.
const maxMessage = 64 << 20

// inspect are the flags of inspect.
type inspect struct {
	files  messageFiles
	stream bool
	last   int
	values bool
}

// messageFiles are names of files, or -.
type messageFiles []string

func (m *messageFiles) String() string { return strings.Join(*m, " ") }

// Set takes one argument; kingpin hands over - as "".
func (m *messageFiles) Set(name string) error {
	if name == "" {
		name = "-"
	}
	*m = append(*m, name)
	return nil
}

// IsCumulative tells kingpin that there may be several.
func (m *messageFiles) IsCumulative() bool { return true }

func inspectCommand(app *kingpin.Application) command {
	f := &inspect{}
	clause := app.Command("inspect", "Print messages as readable text: those in files, or the last ones of the stream.")
	clause.Arg("file", "Files with one message each; - is standard input. A schema goes before the bundles that need it.").SetValue(&f.files)
	clause.Flag("stream", "Read from the stream of the configuration.").BoolVar(&f.stream)
	clause.Flag("last", "How many messages of the stream.").Default("1").PlaceHolder("N").IntVar(&f.last)
	clause.Flag("values", "Print every sample too.").BoolVar(&f.values)
	return command{clause, f.run}
}

// run exits with 0 if the messages could be read, 1 if it is none of ours or damaged, 2 if there is none to read.
func (f *inspect) run(c *cli) int {
	switch {
	case f.stream == (len(f.files) > 0):
		_, _ = fmt.Fprintln(c.stderr, "prometheus-streams: inspect takes a FILE (or -), or --stream")
		return exitUsage
	case f.stream && f.last < 1:
		_, _ = fmt.Fprintf(c.stderr, "prometheus-streams: --last %d is not a number of messages\n", f.last)
		return exitUsage
	case f.stream:
		return f.fromStream(c)
	}
	out := newMessages(c.stdout, f.values, nil)
	for _, name := range f.files {
		data, err := readMessage(name, c.stdin)
		if err != nil {
			_, _ = fmt.Fprintln(c.stderr, err)
			return exitUnreadable
		}
		if err := out.dump(data); err != nil {
			_, _ = fmt.Fprintf(c.stderr, "%s: %s\n", name, err)
			return exitProblems
		}
	}
	return exitOK
}

func readMessage(name string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if name != "-" {
		file, err := os.Open(name)
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
	if err := inspectStream(ctx, env, f.last, f.values, c.stdout); err != nil {
		_, _ = fmt.Fprintln(c.stderr, err)
		return exitProblems
	}
	return exitOK
}
