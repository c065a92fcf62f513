package exposition

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"unsafe"

	"github.com/prometheus/prometheus/model/value"

	"github.com/choria-io/prometheus-streams/internal/frame"
)

// number is a value as it stands in an exposition: the double, and the decimal form if that names it exactly.
type number struct {
	value    float64
	mantissa int64
	exponent int8
}

const maxExact = 1 << 53

// The powers of ten that a double holds exactly.
func pow10(e int) float64 {
	return [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
		1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}[e]
}

// parseNumber reads the value token at pos and returns where it ends, or -1 if it is not a number. The token ends as
// in the text format: at a blank, a line break, an opening brace or the end.
func parseNumber(b []byte, pos int) (number, int) {
	// Most values are short integers.
	i := pos
	var m uint64
	for i < len(b) && b[i]-'0' <= 9 {
		m = m*10 + uint64(b[i]-'0')
		i++
	}
	if n := i - pos; n > 0 && n <= 15 && i < len(b) && b[i] == '\n' {
		return number{value: float64(m), mantissa: int64(m)}, i
	}
	return parseDecimal(b, pos)
}

func parseDecimal(b []byte, pos int) (number, int) {
	i, negative := pos, false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		negative = b[i] == '-'
		i++
	}
	var m uint64
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		m = m*10 + uint64(b[i]-'0')
		i++
	}
	digits, exp := i-start, 0
	if i < len(b) && b[i] == '.' {
		i++
		start = i
		for i < len(b) && b[i]-'0' <= 9 {
			m = m*10 + uint64(b[i]-'0')
			i++
		}
		exp = start - i
		digits += i - start
	}
	if digits == 0 || digits > 18 {
		return parseOther(b, pos)
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		x, n := parseExponent(b, i+1)
		if n < 0 {
			return parseOther(b, pos)
		}
		exp += x
		i = n
	}
	if i < len(b) && b[i] != '\n' && b[i] != ' ' && b[i] != '\t' {
		return parseOther(b, pos)
	}
	if m == 0 {
		if negative {
			return number{math.Copysign(0, -1), 0, frame.NoDecimal}, i
		}
		return number{}, i
	}
	n, ok := exact(m, exp)
	if !ok {
		return parseOther(b, pos)
	}
	if negative {
		n.value, n.mantissa = -n.value, -n.mantissa
	}
	return n, i
}

// parseExponent reads what follows the e of a number; -1 says that it is unusual.
func parseExponent(b []byte, i int) (x, next int) {
	negative := false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		negative = b[i] == '-'
		i++
	}
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		x = x*10 + int(b[i]-'0')
		i++
	}
	if i == start || i-start > 4 {
		return 0, -1
	}
	if negative {
		x = -x
	}
	return x, i
}

// exact gives m·10^exp if a double can be had for it by one correctly rounded operation. The decimal form has no
// needless zeros behind the point and no positive exponent where the mantissa has room.
func exact(m uint64, exp int) (number, bool) {
	for exp > 0 && m < maxExact/10 {
		m *= 10
		exp--
	}
	for exp < 0 && m%10 == 0 {
		m /= 10
		exp++
	}
	if m >= maxExact || exp < -22 || exp > 22 {
		return number{}, false
	}
	n := number{mantissa: int64(m), exponent: int8(exp)}
	if exp < 0 {
		n.value = float64(m) / pow10(-exp)
	} else {
		n.value = float64(m) * pow10(exp)
	}
	return n, true
}

// parseOther reads every other number as Prometheus' parser does.
func parseOther(b []byte, pos int) (number, int) {
	i := pos
	for i < len(b) && b[i] != '\n' && b[i] != ' ' && b[i] != '\t' && b[i] != '{' {
		i++
	}
	v, err := parseFloat(yolo(b[pos:i]))
	if err != nil {
		return number{}, -1
	}
	return number{v, 0, frame.NoDecimal}, i
}

var errNotFloat = errors.New("not a number")

// parseFloat takes what Prometheus' parser takes and, like it, knows but one NaN.
func parseFloat(s string) (float64, error) {
	if strings.ContainsAny(s, "pP_") {
		return 0, errNotFloat
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, err
	}
	if v != v {
		v = math.Float64frombits(value.NormalNaN)
	}
	return v, nil
}

// parseSuffix reads what may follow a value in the text format up to the end of the line: an explicit timestamp in
// milliseconds, or frame.NoTimestamp. It returns where the line ends, or -1.
func parseSuffix(b []byte, i int) (ts int64, next int) {
	i = skipBlank(b, i)
	if i == len(b) || b[i] == '\n' {
		return frame.NoTimestamp, i
	}
	start := i
	for i < len(b) && b[i]-'0' <= 9 {
		ts = ts*10 + int64(b[i]-'0')
		i++
	}
	if i == start || i-start > 18 {
		return 0, -1
	}
	i = skipBlank(b, i)
	if i < len(b) && b[i] != '\n' {
		return 0, -1
	}
	return ts, i
}

func skipBlank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	return i
}

// yolo looks at bytes as a string that must not outlive them.
func yolo(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
