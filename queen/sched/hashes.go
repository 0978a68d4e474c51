package sched

import "rbee/internal/prefix"

// hashes is a set of hashes of prefixes: a table with open addressing, where 0
// is a free place.
type hashes struct {
	table []uint32
	zero  bool // 0 is in the set
}

func newHashes(list []uint32) hashes {
	if len(list) == 0 {
		return hashes{}
	}
	size := 8
	for size < 2*len(list) {
		size *= 2
	}
	h := hashes{table: make([]uint32, size)}
	for _, x := range list {
		if x == 0 {
			h.zero = true
			continue
		}
		i := int(x) & (size - 1)
		for h.table[i] != 0 && h.table[i] != x {
			i = (i + 1) & (size - 1)
		}
		h.table[i] = x
	}
	return h
}

func (h hashes) has(x uint32) bool {
	if x == 0 || len(h.table) == 0 {
		return x == 0 && h.zero
	}
	mask := len(h.table) - 1
	for i := int(x) & mask; h.table[i] != 0; i = (i + 1) & mask {
		if h.table[i] == x {
			return true
		}
	}
	return false
}

// leading is how many hashes a chain begins with that are in the set. Whoever
// has one has those before it too.
func (h hashes) leading(chain []uint32) int {
	if len(h.table) == 0 || len(chain) == 0 || !h.has(chain[0]) {
		return 0
	}
	low, high := 1, len(chain)
	for low < high {
		if mid := (low + high + 1) / 2; h.has(chain[mid-1]) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// longest is how many hashes a chain has in common with one of a list, if more
// than n.
func longest(list *[][]uint32, chain []uint32, n int) int {
	if list == nil {
		return n
	}
	for _, x := range *list {
		if n < len(x) && n < len(chain) && x[n] == chain[n] {
			n = prefix.Shared(x, chain)
		}
	}
	return n
}

// begins says whether a chain of a list begins with the first n hashes of another.
func begins(list *[][]uint32, chain []uint32, n int) bool {
	if list == nil {
		return false
	}
	for _, x := range *list {
		if n <= len(x) && x[n-1] == chain[n-1] {
			return true
		}
	}
	return false
}
