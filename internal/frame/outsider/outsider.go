// Package outsider reads messages of frame format 2 as docs/frame-format.md describes them. It was written from that page
// alone and shares no code with package frame; tests let both read the same messages and compare what they say. So the page
// cannot drift from the code. It is slow, plain and no part of the program.
package outsider

import (
	"errors"
	"fmt"
)

// ErrLater says that a message has something which only a later version can read; it is to be kept.
var ErrLater = errors.New("written by a later version")

// errBad is what no later version can read either.
var errBad = errors.New("malformed")

// failure is what the functions below panic with; the exported ones return its error.
type failure struct{ error }

// must ends the reading of a message unless what it needs is there.
func must(ok bool, format string, args ...any) {
	if !ok {
		panic(failure{fmt.Errorf("%w: %s", errBad, fmt.Sprintf(format, args...))})
	}
}

// known ends the reading of a message that needs a later version.
func known(ok bool, format string, args ...any) {
	if !ok {
		panic(failure{fmt.Errorf("%w: %s", ErrLater, fmt.Sprintf(format, args...))})
	}
}

// catch turns a failure into the error of an exported function.
func catch(err *error) {
	if r := recover(); r != nil {
		f, ok := r.(failure)
		if !ok {
			panic(r)
		}
		*err = f.error
	}
}

// Label is a name and a value.
type Label struct{ Name, Value string }

// ID names a schema.
type ID [16]byte

// Reader reads the messages of a stream in their order. It is not safe for concurrent use.
type Reader struct {
	schemas map[ID]*Schema
	targets map[targetKey]*target
	codes   *codes
}

type targetKey struct {
	publisher, lane string
	epoch, target   uint64
}

// NewReader makes a reader that has seen nothing.
func NewReader() *Reader {
	return &Reader{schemas: make(map[ID]*Schema), targets: make(map[targetKey]*target), codes: pageCodes()}
}
