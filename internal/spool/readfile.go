package spool

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// errTooLarge is that of a file that cannot be one of ours.
var errTooLarge = errors.New("more than such a file can have")

// readAtMost reads a file of at most so many bytes: what a crash, a full disk or somebody else left under the name may be
// of any size.
func readAtMost(path string, most int) ([]byte, error) {
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
		return nil, fmt.Errorf("%s: over %d bytes: %w", path, most, errTooLarge)
	}
	return data, nil
}
