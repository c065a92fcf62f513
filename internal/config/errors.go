package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// maxErrors bounds how many problems of one file are told.
const maxErrors = 20

// Error is one problem of a configuration.
type Error struct {
	File string
	// Line in the file, or 0 if the problem is that something is not there.
	Line int
	// Text says what is wrong and with which key.
	Text string
}

func (e *Error) Error() string { return place(e.File, e.Line) + ": " + e.Text }

// Warning is something in a configuration that works but is probably not what was meant.
type Warning Error

// Place is file and line.
func (w Warning) Place() string { return place(w.File, w.Line) }

func (w Warning) String() string { return place(w.File, w.Line) + ": " + w.Text }

// Errors are the problems of a configuration, in the order in which they were found.
type Errors struct {
	List []*Error
	// Omitted is how many more there were.
	Omitted int
}

// Error gives one problem on each line.
func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.List)+1)
	for _, one := range e.List {
		lines = append(lines, one.Error())
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more problems", e.List[0].File, e.Omitted))
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the single problems to errors.As.
func (e *Errors) Unwrap() []error {
	list := make([]error, len(e.List))
	for i, one := range e.List {
		list[i] = one
	}
	return list
}

func (e *Errors) add(file string, line int, text string) {
	if len(e.List) == maxErrors {
		e.Omitted++
		return
	}
	e.List = append(e.List, &Error{File: file, Line: line, Text: text})
}

// addAll adds the problems of another file.
func (e *Errors) addAll(more *Errors) {
	for _, one := range more.List {
		e.add(one.File, one.Line, one.Text)
	}
	e.Omitted += more.Omitted
}

// or is nil for no problems, so that the nil is an untyped one.
func (e *Errors) or() error {
	if len(e.List) == 0 {
		return nil
	}
	return e
}

func place(file string, line int) string {
	file = filepath.ToSlash(file)
	if line <= 0 {
		return file
	}
	return file + ":" + strconv.Itoa(line)
}

// quote shows a user's text in a message: on one line, not longer than needed, without the password of a URL.
func quote(s string) string { return strconv.Quote(clip(redact(s))) }

func clip(s string) string {
	const longest = 120
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= longest {
		return s
	}
	cut := longest
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + "…"
}

// suggest finds the known word that was probably meant, or "".
func suggest(word string, known []string) string {
	word = strings.ToLower(word)
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", max(1, len(word)/3)+1
	for _, k := range known {
		if n := distance(word, k); n < bestDistance {
			best, bestDistance = k, n
		}
	}
	for _, k := range known {
		if best == "" && len(word) > 2 && (strings.HasPrefix(k, word) || strings.HasPrefix(word, k)) {
			best = k
		}
	}
	return best
}

// distance is how many letters have to be changed, added, removed or swapped with their neighbour to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j-1]+cost, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
