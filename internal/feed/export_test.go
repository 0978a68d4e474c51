package feed

// Readers is the number of subscriptions.
func (f *Feed[S, E]) Readers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.readers)
}
