package hive

import (
	"cmp"
	"slices"
)

const (
	// tokensPerBlock is about how many tokens a hash of a prompt stands for, taken
	// a little low: what is kept in main memory beside the KV cells counts as well.
	tokensPerBlock = 32
	// A list is never shorter than leastCached, nor longer than mostCached.
	leastCached = 64
	mostCached  = 2048
	// mostTold bounds those of all workers together.
	mostTold = 16 << 10
)

// cachedMost is how many hashes are told of a worker with so many KV cells.
func cachedMost(kvTokens int) int {
	return min(max(kvTokens/tokensPerBlock, leastCached), mostCached)
}

// cached is what the prompts of a worker began with: hashes (package prefix),
// and when each was last in one.
type cached struct {
	stamps map[uint32]uint64
	last   uint64
}

// add takes a prompt. Its beginning counts as newer than its end, since more
// prompts share it, and it is kept for longer.
func (c *cached) add(chain []uint32, most int) {
	if c.stamps == nil {
		c.stamps = map[uint32]uint64{}
	}
	chain = chain[:min(len(chain), most)]
	c.last += uint64(len(chain))
	for i, hash := range chain {
		c.stamps[hash] = c.last - uint64(i) //nolint:gosec // an index
	}
	if len(c.stamps) > 2*most {
		c.forget(most)
	}
}

// stamped is a hash and when it was last in a prompt.
type stamped struct {
	hash  uint32
	stamp uint64
}

// all is the hashes in no order.
func (c *cached) all() []stamped {
	list := make([]stamped, 0, len(c.stamps))
	for hash, stamp := range c.stamps {
		list = append(list, stamped{hash, stamp})
	}
	return list
}

// newest is that much of a list, newest first.
func newest(list []stamped, most int) []uint32 {
	slices.SortFunc(list, func(a, b stamped) int { return cmp.Compare(b.stamp, a.stamp) })
	out := make([]uint32, min(len(list), most))
	for i := range out {
		out[i] = list[i].hash
	}
	return out
}

func (c *cached) forget(most int) {
	list := c.all()
	for _, hash := range newest(list, len(list))[most:] {
		delete(c.stamps, hash)
	}
}
