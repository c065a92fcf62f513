package frame

import (
	"math"
	"math/bits"
)

// A class says how the value of a row stands as an integer M:
//
//	0 … 15        decimal: M / 10^class
//	0x11 … 0x3f   binary: M · 2^(class − 0x10); memory and file sizes are multiples of pages
//	0x40          float: the 64 bits of the value
//
// A decimal or binary M is at least -2^53 and less than 2^53, so that one float64 operation gives the value back exactly.
const (
	classScales = 16
	classShift  = 0x10
	classFloat  = 0x40

	maxMantissa = 1 << 53
)

// scales is what M is divided by to give the value, by class. Powers of two and of ten up to 22 are exact.
type scales [classFloat]float64

func newScales() (s scales) {
	s[0] = 1
	for i := 1; i < classScales; i++ {
		s[i] = s[i-1] * 10
	}
	s[classShift] = 1
	for i := classShift + 1; i < classFloat; i++ {
		s[i] = s[i-1] / 2
	}
	return s
}

func validClass(c uint8) bool { return c <= classFloat && c != classShift }

// mantissa finds the M of a value for a divisor: the nearest integer (ties to even) of the product, if dividing it
// gives the very bits of the value back.
func mantissa(v, div float64) (int64, bool) {
	m := int64(math.RoundToEven(v * div))
	return m, inRange(m) && math.Float64bits(float64(m)/div) == math.Float64bits(v)
}

// fromInteger is the value of a row.
func fromInteger(m int64, class uint8, div *scales) float64 {
	switch {
	case class == 0:
		return float64(m)
	case class < classFloat:
		return float64(m) / div[class]
	default:
		return math.Float64frombits(uint64(m))
	}
}

// toInteger is the M of a value in a class, or 0 if it has none: what keyframes do with base values, which are a
// prediction only.
func toInteger(v float64, class uint8, div *scales) int64 {
	if class >= classFloat {
		return int64(math.Float64bits(v))
	}
	if m, ok := mantissa(v, div[class]); ok {
		return m
	}
	return 0
}

// classOf chooses the class of a value alone: the smallest decimal scale that holds it; large multiples of 4096 or
// 1024 are binary. The rule is part of the format, because the bases of a schema are hashed in this form.
func classOf(v float64, div *scales) uint8 {
	for c := uint8(0); c < classScales; c++ {
		m, ok := mantissa(v, div[c])
		if !ok {
			continue
		}
		if c == 0 && m != 0 {
			return shiftOf(m)
		}
		return c
	}
	return classFloat
}

// shiftOf takes only two page sizes: a finer choice would be wrong too often after a single value.
func shiftOf(m int64) uint8 {
	switch z := bits.TrailingZeros64(uint64(m)); {
	case z >= 12:
		return classShift + 12
	case z >= 10:
		return classShift + 10
	default:
		return 0
	}
}

func inRange(m int64) bool { return uint64(m+maxMantissa)>>54 == 0 }
