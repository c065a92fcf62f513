// Package bounded reads small files whole, and no others: what a crash, a full disk or somebody else left under a name may be of
// any size.
package bounded

import (
	"fmt"
	"io"
	"math"
	"os"
)

// TooLargeError says that a file has more than Most bytes.
type TooLargeError struct {
	Path string
	Most int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s has more than %d bytes", e.Path, e.Most)
}

// ReadFile reads a file of at most so many bytes. The error is a *TooLargeError if it has more, else that of os.
func ReadFile(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, int64(min(most, math.MaxInt-1))+1))
	if err != nil {
		return nil, err
	}
	if len(data) > most {
		return nil, &TooLargeError{path, most}
	}
	return data, nil
}
