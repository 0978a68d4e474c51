package grammar

import (
	"fmt"
	"math/big"
	"strings"
)

// freeDigits is how many digits a number has where nothing bounds it: what a
// 64-bit floating-point number keeps.
const freeDigits = 16

// limits are the bounds of a number; nil is none.
type limits struct {
	low, high         *big.Rat
	lowOpen, highOpen bool // the bound itself is outside
}

func (l limits) none() bool { return l.low == nil && l.high == nil }

// empty says that no number is inside.
func (l limits) empty() bool {
	if l.low == nil || l.high == nil {
		return false
	}
	c := l.low.Cmp(l.high)
	return c > 0 || c == 0 && (l.lowOpen || l.highOpen)
}

// below narrows the range from above, above from below.
func (l *limits) below(v *big.Rat, open bool) {
	if l.high == nil || v.Cmp(l.high) < 0 || v.Cmp(l.high) == 0 && open {
		l.high, l.highOpen = v, open
	}
}

func (l *limits) above(v *big.Rat, open bool) {
	if l.low == nil || v.Cmp(l.low) > 0 || v.Cmp(l.low) == 0 && open {
		l.low, l.lowOpen = v, open
	}
}

// mirrored are the limits of the negated number.
func (l limits) mirrored() limits {
	m := limits{lowOpen: l.highOpen, highOpen: l.lowOpen}
	if l.high != nil {
		m.low = new(big.Rat).Neg(l.high)
	}
	if l.low != nil {
		m.high = new(big.Rat).Neg(l.low)
	}
	return m
}

// filled has a bound on both sides: where there is none, one with freeDigits
// digits, or a digit more than the other bound has.
func (l limits) filled() limits {
	digits := freeDigits
	for _, v := range []*big.Rat{l.low, l.high} {
		if v != nil {
			whole := new(big.Int).Quo(v.Num(), v.Denom())
			digits = max(digits, len(whole.Abs(whole).String())+1)
		}
	}
	end := new(big.Rat).SetInt(power(digits))
	if l.low == nil {
		l.low, l.lowOpen = new(big.Rat).Neg(end), true
	}
	if l.high == nil {
		l.high, l.highOpen = end, true
	}
	return l
}

func power(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// fraction is how many digits a number has after the point.
func fraction(v *big.Rat) int {
	n, exact := v.FloatPrec()
	if !exact {
		return maxDigits
	}
	return n
}

// scaled are the least and the greatest number of 10^-places inside of the limits.
func (l limits) scaled(places int) (low, high *big.Int) {
	scale := new(big.Rat).SetInt(power(places))
	one := big.NewInt(1)
	v := new(big.Rat).Mul(l.low, scale)
	low = floor(v)
	if whole := v.IsInt(); !whole || l.lowOpen {
		low.Add(low, one)
	}
	v.Mul(l.high, scale)
	high = floor(v)
	if v.IsInt() && l.highOpen {
		high.Sub(high, one)
	}
	return low, high
}

func floor(v *big.Rat) *big.Int { return new(big.Int).Div(v.Num(), v.Denom()) } // Div rounds down: denominators are positive

// number writes in GBNF the numbers inside of limits, without exponents. It
// gives no alternatives if there is none.
func (l limits) number(whole bool) []string {
	l = l.filled()
	zero := new(big.Rat)
	positive, negative := l, l.mirrored()
	positive.above(zero, false)
	negative.above(zero, true)
	out := positive.unsigned(whole)
	for _, alternative := range negative.unsigned(whole) {
		out = append(out, `"-" (`+alternative+`)`)
	}
	return out
}

// unsigned is number for limits that are not negative.
func (l limits) unsigned(whole bool) []string {
	if l.empty() {
		return nil
	}
	var out []string
	places := max(fraction(l.low), fraction(l.high))
	if whole {
		places = 0
	}
	for n := range places + 1 {
		low, high := l.scaled(n)
		out = append(out, digitRange(low, high, n)...)
	}
	if whole {
		return out
	}
	// More digits after those: all that is between one step and the next.
	low, high := limits{low: l.low, lowOpen: l.lowOpen, high: l.high, highOpen: true}.scaled(places)
	point := ""
	if places == 0 {
		point = `"." `
	}
	for _, alternative := range digitRange(low, high, places) {
		out = append(out, fmt.Sprintf("(%s) %s[0-9]{1,%d}", alternative, point, freeDigits))
	}
	if l.lowOpen && l.low.Cmp(l.high) < 0 { // the bound and a little more
		at, _ := limits{low: l.low, high: l.high}.scaled(places)
		for _, alternative := range digitRange(at, at, places) {
			out = append(out, fmt.Sprintf("%s %s[0-9]{0,%d} [1-9]", alternative, point, freeDigits-1))
		}
	}
	return out
}

// digitRange writes the numbers from low to high, which are not negative, with
// a point before the last places digits.
func digitRange(low, high *big.Int, places int) []string {
	var out []string
	for length := places + 1; length <= max(len(high.String()), places+1); length++ {
		from, to := new(big.Int), new(big.Int).Sub(power(length), big.NewInt(1))
		if length > places+1 {
			from = power(length - 1)
		}
		if low.Cmp(from) > 0 {
			from = low
		}
		if high.Cmp(to) < 0 {
			to = high
		}
		if from.Cmp(to) <= 0 {
			pad := func(v *big.Int) string { return fmt.Sprintf("%0*s", length, v.String()) }
			out = append(out, sameLength(pad(from), pad(to), length-places))
		}
	}
	return out
}

// sameLength writes the digits from low to high, texts of one length, with a
// point before the digit at point; at or beyond the length there is none.
func sameLength(low, high string, point int) string {
	switch {
	case point == 0 && low != "":
		return `"." ` + sameLength(low, high, -1)
	case low == "":
		return `""`
	case strings.Trim(low, "0") == "" && strings.Trim(high, "9") == "":
		return anyDigits(len(low), point)
	case low[0] == high[0]:
		return fmt.Sprintf(`"%c" `, low[0]) + sameLength(low[1:], high[1:], point-1)
	}
	rest := len(low) - 1
	var out []string
	first, last := low[0], high[0]
	if strings.Trim(low[1:], "0") != "" {
		out = append(out, fmt.Sprintf(`"%c" `, first)+sameLength(low[1:], strings.Repeat("9", rest), point-1))
		first++
	}
	upper := ""
	if strings.Trim(high[1:], "9") != "" {
		upper = fmt.Sprintf(`"%c" `, last) + sameLength(strings.Repeat("0", rest), high[1:], point-1)
		last--
	}
	if first <= last {
		out = append(out, strings.TrimSpace(fmt.Sprintf("[%c-%c] ", first, last)+anyDigits(rest, point-1)))
	}
	if upper != "" {
		out = append(out, upper)
	}
	return "(" + strings.Join(out, " | ") + ")"
}

// anyDigits writes n digits with the point among them.
func anyDigits(n, point int) string {
	switch {
	case n == 0:
		return ""
	case point < 0 || point >= n:
		return fmt.Sprintf("[0-9]{%d}", n)
	case point == 0:
		return fmt.Sprintf(`"." [0-9]{%d}`, n)
	}
	return fmt.Sprintf(`[0-9]{%d} "." [0-9]{%d}`, point, n-point)
}
