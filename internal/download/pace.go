package download

// pace decides how many connections are worth having: one more as long as each
// brings a tenth, one less where the last brought nothing or the source failed.
type pace struct {
	n, most int
	rate    float64 // with one connection fewer, bytes per second
	rest    int     // ticks before the next one is tried
}

// restTicks is how long a number that proved best is kept.
const restTicks = 15

func newPace(most int) pace { return pace{n: min(2, most), most: most} }

// tick takes the rate of the last tick, which had n connections.
func (p *pace) tick(rate float64) {
	switch {
	case p.rest > 0:
		if p.rest--; p.rest == 0 {
			p.rate = rate
			p.more()
		}
	case rate >= 1.1*p.rate:
		p.rate = rate
		p.more()
	default:
		p.less()
	}
}

func (p *pace) more() {
	if p.n == p.most {
		p.rest = restTicks
	}
	p.n = min(p.n+1, p.most)
}

// less also answers a source that fails or asks for a pause.
func (p *pace) less() {
	p.n = max(1, p.n-1)
	p.rest = restTicks
}
