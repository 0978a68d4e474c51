//go:build !linux

package supervise

// reap blocks until the leader has ended, collects its exit status and kills
// what is left of its group. A group that still has members keeps its id.
func (p *Process) reap() {
	err := p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own.kill(p)
	p.collect(err)
}
