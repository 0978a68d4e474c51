package grammar

import (
	"fmt"
	"slices"
)

type op uint8

const (
	opSet   op = iota // a character of set x, then the next step
	opCall            // rule x, then the next step
	opSplit           // step x or step y
	opJump            // step x
	opEnd             // the end of the rule
)

type step struct {
	op   op
	x, y int32
}

// program is a compiled grammar. Rule 0 is the root.
type program struct {
	steps []step
	start []int32  // first step of each rule
	names []string // of the rules, those that were made for repetitions have the name of the rule they are in
	sets  [][]int32
	bytes byteSets
	class [256]uint8 // bytes that no set tells apart have the same class
	some  []byte     // a byte of each class
}

// memory is about how many bytes the program takes.
func (p *program) memory() int {
	n := 12*len(p.steps) + 20*len(p.start) + 32*len(p.bytes.spans)
	for _, s := range p.sets {
		n += 24 + 4*len(s)
	}
	return n
}

// compiler writes a program.
type compiler struct {
	program
	bodies []*expr
	known  map[string]int32 // numbers of sets
	empty  []bool           // rules that are known to allow nothing
	full   bool
}

func compile(rules []definition) (*program, error) {
	c, err := written(rules, make([]bool, len(rules)))
	if err != nil {
		return nil, err
	}
	if empty := c.ending(false)[:len(rules)]; slices.Contains(empty, true) {
		if c, err = written(rules, empty); err != nil {
			return nil, err
		}
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c.program, nil
}

// written is the program of rules, of which some are known to allow nothing.
func written(rules []definition, empty []bool) (*compiler, error) {
	c := &compiler{known: map[string]int32{}, empty: empty}
	c.bytes.known = map[byteSpan]int32{}
	for _, r := range rules {
		c.bodies = append(c.bodies, r.body)
		c.names = append(c.names, r.name)
	}
	for n := 0; n < len(c.bodies); n++ { // emit adds more
		c.start = append(c.start, int32(len(c.steps)))
		c.emit(c.bodies[n], n)
		c.add(opEnd, 0, 0)
		if c.full {
			return nil, fault("rule %s: with its repetitions written out the grammar has more than %d steps", c.names[n], maxSteps)
		}
	}
	c.classify()
	return c, nil
}

// mayBeEmpty says whether an expression allows nothing, as far as is known.
func (c *compiler) mayBeEmpty(e *expr) bool {
	switch e.kind {
	case isCall:
		return e.rule < len(c.empty) && c.empty[e.rule]
	case isSeries:
		return !slices.ContainsFunc(e.parts, func(p *expr) bool { return !c.mayBeEmpty(p) })
	case isChoice:
		return slices.ContainsFunc(e.parts, c.mayBeEmpty)
	case isRepeat:
		return e.low == 0 || c.mayBeEmpty(e.parts[0])
	}
	return false
}

func (c *compiler) here() int32 { return int32(len(c.steps)) }

func (c *compiler) add(o op, x, y int32) int32 {
	if len(c.steps) >= maxSteps {
		c.full = true
		return 0
	}
	c.steps = append(c.steps, step{o, x, y})
	return c.here() - 1
}

func (c *compiler) emit(e *expr, rule int) {
	if c.full {
		return
	}
	switch e.kind {
	case isSet:
		c.add(opSet, c.set(e.set), 0)
	case isCall:
		c.add(opCall, int32(e.rule), 0)
	case isSeries:
		for _, part := range e.parts {
			c.emit(part, rule)
		}
	case isChoice:
		var ends []int32
		for i, part := range e.parts {
			if i == len(e.parts)-1 {
				c.emit(part, rule)
				break
			}
			split := c.add(opSplit, c.here()+1, 0)
			c.emit(part, rule)
			ends = append(ends, c.add(opJump, 0, 0))
			c.steps[split].y = c.here()
		}
		for _, end := range ends {
			c.steps[end].x = c.here()
		}
	case isRepeat:
		c.repeat(e, rule)
	}
}

// repeat writes a part several times. A part of several steps becomes a rule
// first, so that repetitions of repetitions add up and do not multiply.
func (c *compiler) repeat(e *expr, rule int) {
	part, low := e.parts[0], e.low
	if c.mayBeEmpty(part) {
		low = 0 // it means the same, and the way to the end is short
	}
	if many := low > 1 || e.high > 1; many && part.kind != isSet && part.kind != isCall {
		c.bodies = append(c.bodies, part)
		c.names = append(c.names, c.names[rule])
		part = &expr{kind: isCall, rule: len(c.bodies) - 1}
	}
	for range low - 1 {
		c.emit(part, rule)
		if c.full {
			return
		}
	}
	if e.high < 0 {
		if low > 0 {
			again := c.here()
			c.emit(part, rule)
			c.add(opSplit, again, c.here()+1)
			return
		}
		split := c.add(opSplit, c.here()+1, 0)
		c.emit(part, rule)
		c.add(opJump, split, 0)
		c.steps[split].y = c.here()
		return
	}
	if low > 0 {
		c.emit(part, rule)
	}
	var splits []int32
	for range e.high - low {
		splits = append(splits, c.add(opSplit, c.here()+1, 0))
		c.emit(part, rule)
		if c.full {
			return
		}
	}
	for _, split := range splits {
		c.steps[split].y = c.here()
	}
}

// set is the number of a set of characters.
func (c *compiler) set(s charset) int32 {
	key := fmt.Sprint(s)
	if n, ok := c.known[key]; ok {
		return n
	}
	var starts []int32
	for _, x := range s {
		starts = c.bytes.encode(starts, x.low, x.high)
	}
	n := int32(len(c.sets))
	c.sets = append(c.sets, starts)
	c.known[key] = n
	return n
}

// classify gives bytes between which no set has a border the same class.
func (c *compiler) classify() {
	var border [257]bool
	for _, b := range c.bytes.spans {
		border[b.low], border[int(b.high)+1] = true, true
	}
	class := -1
	for b := range 256 {
		if b == 0 || border[b] {
			class++
			c.some = append(c.some, byte(b))
		}
		c.class[b] = uint8(class)
	}
}

// check refuses rules that would make a matcher go round without a character,
// and those that have no end.
func (c *compiler) check() error {
	empty := c.ending(false)
	if rule, found := c.beginsWithItself(empty); found {
		return fault("rule %s begins with itself; write what is repeated first, or use a repetition", c.names[rule]).With("rule", c.names[rule])
	}
	for rule, ends := range c.ending(true) {
		if !ends {
			return fault("rule %s can't end", c.names[rule]).With("rule", c.names[rule])
		}
	}
	return nil
}

// ending says of each rule whether there is a way to its end: through
// characters, or only through what may be empty.
func (c *compiler) ending(characters bool) []bool {
	ends := make([]bool, len(c.start))
	seen := make([]bool, len(c.steps))
	waiting := make([][]int32, len(c.start)) // steps after a call of the rule
	owner := make([]int32, len(c.steps))
	var work []int32
	reach := func(at int32) {
		if !seen[at] {
			seen[at] = true
			work = append(work, at)
		}
	}
	for rule, from := range c.start {
		for at := from; at < int32(len(c.steps)) && (rule+1 == len(c.start) || at < c.start[rule+1]); at++ {
			owner[at] = int32(rule)
		}
		reach(from)
	}
	for len(work) > 0 {
		at := work[len(work)-1]
		work = work[:len(work)-1]
		switch s := c.steps[at]; s.op {
		case opSet:
			if characters && len(c.sets[s.x]) > 0 {
				reach(at + 1)
			}
		case opCall:
			if ends[s.x] {
				reach(at + 1)
			} else {
				waiting[s.x] = append(waiting[s.x], at+1)
			}
		case opSplit:
			reach(s.x)
			reach(s.y)
		case opJump:
			reach(s.x)
		case opEnd:
			if rule := owner[at]; !ends[rule] {
				ends[rule] = true
				for _, next := range waiting[rule] {
					reach(next)
				}
			}
		}
	}
	return ends
}

// beginsWithItself finds a rule that calls itself before any character.
func (c *compiler) beginsWithItself(empty []bool) (rule int32, found bool) {
	const entered, left = 1, 2
	mark := make([]uint8, len(c.start))
	seen := make([]bool, len(c.steps))
	var enter func(rule int32) bool
	enter = func(r int32) bool {
		mark[r] = entered
		work := []int32{c.start[r]}
		for len(work) > 0 {
			at := work[len(work)-1]
			work = work[:len(work)-1]
			if seen[at] {
				continue
			}
			seen[at] = true
			switch s := c.steps[at]; s.op {
			case opCall:
				if mark[s.x] == entered {
					rule = s.x
					return true
				}
				if mark[s.x] == 0 && enter(s.x) {
					return true
				}
				if empty[s.x] {
					work = append(work, at+1)
				}
			case opSplit:
				work = append(work, s.x, s.y)
			case opJump:
				work = append(work, s.x)
			}
		}
		mark[r] = left
		return false
	}
	for r := range c.start {
		if mark[r] == 0 && enter(int32(r)) {
			return rule, true
		}
	}
	return 0, false
}
