package sampling

import "math"

const (
	// far is the distance from the most likely token at which a token has less
	// than 10^-17 of its weight: less than the smallest step of a random number.
	far = 40
	// fine is how many classes a distance of 1 has. Tokens are sorted into
	// classes before a selection: only the class at its border is ordered.
	fine    = 32
	classes = far*fine + 1
)

// slots is the length of tables by class: a power of two, so that a masked index needs no check.
const slots = 2048

// powers are e^(-n/fine).
var powers = powersOf()

func powersOf() *[slots]float64 {
	var p [slots]float64
	for n := range classes {
		p[n] = math.Exp(-float64(n) / fine)
	}
	return &p
}

// weigh is e^-d for d >= 0, with a relative error below 10^-11; 0 from far on
// and for NaN. It is several times as fast as math.Exp: the nearest power, and
// the first terms of the series for the rest, which is at most 1/64.
func weigh(d float64) float64 {
	if !(d < far) {
		return 0
	}
	n := int(d*fine + 0.5)
	r := d - float64(n)*(1.0/fine)
	return powers[n&(slots-1)] * (1 - r*(1-r*(1.0/2-r*(1.0/6-r*(1.0/24)))))
}

// classOf is the class of a distance, the last one for all from far on.
func classOf(d float64) int {
	if !(d < far) {
		return classes - 1
	}
	return int(d*fine + 0.5)
}
