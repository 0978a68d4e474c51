package threads

import (
	"testing"
	"testing/fstest"
	"time"
)

// machine is a simulated computer with some CPUs, of which others take some.
type machine struct {
	cpus, taken int
	now         time.Time
}

// step is how long a step of 4 ms of work takes on so many threads.
func (m *machine) step(threads int) Step {
	took := 4 * time.Millisecond / time.Duration(threads)
	if free := m.cpus - m.taken; threads > free {
		took *= 100 // those that have a CPU wait for one that has none
	}
	m.now = m.now.Add(took)
	return Step{Tokens: 1, Rows: 1, Time: took}
}

// work runs steps for a time and returns how many there were and the last number of threads.
func (m *machine) work(p *Policy, span time.Duration) (steps, threads int) {
	threads = p.now
	for end := m.now.Add(span); m.now.Before(end); steps++ {
		threads = p.Next(m.step(threads), m.now)
	}
	return steps, threads
}

func (m *machine) idle(p *Policy) func() float64 {
	return func() float64 { return float64(m.cpus - m.taken - min(p.now, m.cpus-m.taken)) }
}

func TestOneThreadLessWhenACPUIsTakenAndBackWhenItIsFree(t *testing.T) {
	for _, c := range []struct {
		name  string
		cpus  int
		taken int
		idle  bool
		part  float64 // of the steps of the threads that there are CPUs for
	}{
		{"two CPUs, the idle time known", 2, 1, true, 0.9},
		{"two CPUs, the idle time unknown", 2, 1, false, 0.8},
		{"four CPUs, one taken", 4, 1, true, 0.9},
		{"four CPUs, three taken", 4, 3, true, 0.9},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &machine{cpus: c.cpus, now: time.Unix(0, 0)}
			p := NewPolicy(c.cpus, nil)
			if c.idle {
				p.idle = m.idle(&p)
			}
			if _, n := m.work(&p, time.Second); n != c.cpus {
				t.Fatalf("with all CPUs free there are %d threads", n)
			}
			m.taken = c.taken
			m.work(&p, time.Second+time.Duration(c.taken)*400*time.Millisecond)
			steps, _ := m.work(&p, 20*time.Second)
			ideal := 20 * time.Second / (4 * time.Millisecond / time.Duration(c.cpus-c.taken))
			if part := float64(steps) / float64(ideal); part < c.part {
				t.Errorf("beside another program it does %.2f of what it could", part)
			}
			m.taken = 0
			m.work(&p, 5*time.Second)
			if _, n := m.work(&p, time.Second); n != c.cpus {
				t.Errorf("5 s after the other program ended there are %d threads", n)
			}
		})
	}
}

func TestWhatIsSlowForAnotherReasonCostsNoThread(t *testing.T) {
	now := time.Unix(0, 0)
	for name, step := range map[string]func(i int) Step{
		"other shapes": func(i int) Step {
			n := 1 << (i % 9)
			return Step{Tokens: n, Rows: 1, Time: time.Duration(n) * time.Millisecond}
		},
		"a growing context": func(i int) Step {
			return Step{Tokens: 1, Rows: 1, Time: time.Millisecond + time.Duration(i)*time.Microsecond}
		},
		"a single outlier": func(i int) Step {
			return Step{Tokens: 1, Rows: 1, Time: time.Millisecond * time.Duration(1+9*(i%50/49))}
		},
		"busy with all CPUs": func(int) Step { return Step{Tokens: 512, Time: time.Second, CPU: 2 * time.Second} },
	} {
		p := NewPolicy(2, nil)
		for i := range 5000 {
			now = now.Add(time.Millisecond)
			if n := p.Next(step(i), now); n != 2 {
				t.Errorf("%s: step %d costs a thread", name, i)
				break
			}
		}
	}
}

func TestThreadsThatHadNoCPUFromTheBeginningAreFoundByTheirCPUTime(t *testing.T) {
	p := NewPolicy(2, nil)
	now := time.Unix(0, 0)
	n := 2
	for range 3 {
		now = now.Add(400 * time.Millisecond)
		n = p.Next(Step{Tokens: 1, Rows: 1, Time: 400 * time.Millisecond, CPU: 600 * time.Millisecond}, now)
	}
	if n != 1 {
		t.Errorf("there are still %d threads", n)
	}
}

func TestOneThreadStaysOne(t *testing.T) {
	p := NewPolicy(1, nil)
	for i := range 10 {
		if n := p.Next(Step{Tokens: 1, Time: time.Duration(1+i*i) * time.Second}, time.Unix(int64(i), 0)); n != 1 {
			t.Errorf("there are %d threads", n)
		}
	}
}

func TestTheDefaultRespectsCoresAndQuotas(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	siblings := fstest.MapFS{}
	for c, s := range []string{"0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"} {
		siblings["sys/devices/system/cpu/cpu"+string(rune('0'+c))+"/topology/thread_siblings_list"] = file(s + "\n")
	}
	with := func(more fstest.MapFS) fstest.MapFS {
		out := fstest.MapFS{}
		for _, m := range []fstest.MapFS{siblings, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		cpus []int
		want int
	}{
		{"one for each core", siblings, all, 4},
		{"one core less if there are no second threads", siblings, []int{0, 1, 2}, 2},
		{"the CPUs that it may use", siblings, []int{1, 5}, 1},
		{"one CPU", fstest.MapFS{}, []int{0}, 1},
		{"nothing known", fstest.MapFS{}, nil, 7},
		{"quota of version 2", with(fstest.MapFS{
			"proc/self/cgroup":            file("0::/a/b\n"),
			"sys/fs/cgroup/a/b/cpu.max":   file("max 100000\n"),
			"sys/fs/cgroup/a/cpu.max":     file("250000 100000\n"),
			"sys/fs/cgroup/other/cpu.max": file("1000 100000\n"),
		}), all, 2},
		{"quota of version 2 in a container", with(fstest.MapFS{
			"proc/self/cgroup": file("0::/docker/123\n"), "sys/fs/cgroup/cpu.max": file("50000 100000\n"),
		}), all, 1},
		{"quota of version 1", with(fstest.MapFS{
			"proc/self/cgroup": file("5:memory:/x\n4:cpu,cpuacct:/x\n"),
			"sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us":  file("300000\n"),
			"sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": file("100000\n"),
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":    file("-1\n"),
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us":   file("100000\n"),
		}), all, 3},
		{"nonsense", with(fstest.MapFS{"proc/self/cgroup": file("what\n"), "sys/fs/cgroup/cpu.max": file("x y z\n")}), all, 4},
	} {
		if got := choose(c.fs, c.cpus, 8); got != c.want {
			t.Errorf("%s: %d threads, want %d", c.name, got, c.want)
		}
	}
}

func TestIdleTimeIsReadOfTheCPUsThatMayBeUsed(t *testing.T) {
	fs := fstest.MapFS{"proc/stat": {Data: []byte("cpu  1 1 1 500 7 0 0\ncpu0 1 1 1 100 3 0 0\ncpu1 1 1 1 200 4 0 0\nintr 5\n")}}
	if got := idleTicks(fs, map[string]bool{"cpu1": true}); got != 204 {
		t.Errorf("idle for %v ticks, want 204", got)
	}
	if got := idleTicks(fstest.MapFS{}, map[string]bool{"cpu1": true}); got >= 0 {
		t.Errorf("without the file it is %v, want that it is unknown", got)
	}
}
