package engines

import (
	"fmt"
	"runtime"

	"rbee"
)

// Install is one row of the list of engines.
type Install struct {
	Backend   rbee.Backend `json:"backend"`
	Installed bool         `json:"installed"`
	Source    string       `json:"source,omitempty"` // package or directory that it came from, or the package that would be fetched
	Dir       string       `json:"dir,omitempty"`
	SizeBytes int64        `json:"size_bytes,omitempty"`
	Damage    []Damage     `json:"damage,omitempty"` // judged by sizes and times; Verify judges by digests
	Available bool         `json:"available"`
	Reason    string       `json:"reason,omitempty"` // why it is not available, and what to do
}

// List returns a row for each backend, in the order of rbee.Backends.
func (s *Store) List() []Install {
	var list []Install
	for _, b := range rbee.Backends() {
		row := Install{Backend: b}
		if p, err := s.pinFor(b); err == nil {
			row.Source = p.spec()
		}
		if m := s.manifestOf(b); m != nil {
			row.Installed, row.Source, row.Dir, row.SizeBytes = true, m.Source, s.LibDir(), m.size()
			row.Damage = m.check(s.LibDir(), false)
		}
		row.Reason = s.reason(row)
		row.Available = row.Reason == ""
		list = append(list, row)
	}
	return list
}

// Status says for each backend whether this machine and the installed engine
// can drive it, as far as files tell. Which devices there are, the engine knows.
func (s *Store) Status() []rbee.BackendStatus {
	var status []rbee.BackendStatus
	for _, row := range s.List() {
		status = append(status, rbee.BackendStatus{Backend: row.Backend, Available: row.Available, Reason: row.Reason})
	}
	return status
}

// manifestOf is the manifest of the component that drives a backend, or nil.
func (s *Store) manifestOf(b rbee.Backend) *manifest {
	if m := readManifest(s.LibDir(), own); m != nil {
		for _, has := range m.Backends {
			if has == b {
				return m
			}
		}
		return nil
	}
	m := readManifest(s.LibDir(), string(b))
	if p, err := s.pinFor(b); m == nil || err != nil || p.integrity != m.Integrity {
		return nil
	}
	return m
}

// reason says why a backend is not available, machine first, or "".
func (s *Store) reason(row Install) string {
	if why := s.machineLacks(row.Backend); why != "" {
		return why
	}
	command := "rbee engine install"
	if row.Backend != rbee.BackendCPU {
		command += " --backend " + string(row.Backend)
	}
	switch {
	case !row.Installed && readManifest(s.LibDir(), own) != nil:
		return "the installed own build of llama.cpp has no library for it"
	case !row.Installed && row.Source == "":
		return fmt.Sprintf("no engine package is pinned for %s; run 'rbee engine install --from DIR' with an own build of llama.cpp %s", s.platform, Version)
	case !row.Installed:
		return fmt.Sprintf("the engine package is not installed; run '%s'", command)
	case len(row.Damage) > 0:
		return fmt.Sprintf("the engine is damaged: %s; run '%s'", row.Damage[0], command)
	}
	if row.Backend == rbee.BackendCPU {
		return s.systemLacks()
	}
	if base := s.manifestOf(rbee.BackendCPU); base == nil || len(base.check(s.LibDir(), false)) > 0 {
		return fmt.Sprintf("the base of the engine is missing or damaged; run '%s'", command)
	}
	return s.runtimeLacks(row)
}

// machineLacks names the driver that a backend needs and the machine has not.
func (s *Store) machineLacks(b rbee.Backend) string {
	driver := map[string]string{
		"linux cuda": "libcuda.so.1", "windows cuda": "nvcuda.dll",
		"linux vulkan": "libvulkan.so.1", "windows vulkan": "vulkan-1.dll", "darwin vulkan": "libvulkan.1.dylib",
	}[runtime.GOOS+" "+string(b)]
	switch {
	case b == rbee.BackendCPU:
		return ""
	case b == rbee.BackendMetal && runtime.GOOS != "darwin":
		return "only on macOS"
	case b == rbee.BackendMetal:
		return ""
	case driver == "":
		return "not on " + runtime.GOOS
	case s.find(driver) != "":
		return ""
	case b == rbee.BackendCUDA:
		return fmt.Sprintf("no NVIDIA driver (%s not found)", driver)
	}
	return fmt.Sprintf("no Vulkan loader (%s not found); on Debian: 'apt-get install libvulkan1'", driver)
}

// systemLacks names a library of the system that the base needs, or "".
func (s *Store) systemLacks() string {
	if runtime.GOOS != "linux" {
		return ""
	}
	for _, need := range systemNeeds() {
		if s.find(need.library) == "" {
			return fmt.Sprintf("%s not found; on Debian: 'apt-get install %s'", need.library, need.debian)
		}
	}
	return ""
}

func (s *Store) runtimeLacks(row Install) string {
	for _, p := range s.pins {
		if p.spec() != row.Source {
			continue
		}
		if lib := s.missingRuntime(p); lib != "" {
			return fmt.Sprintf("the CUDA runtime that the engine was built for is missing (%s not found); install CUDA 13 or 12 and run 'rbee engine install --backend cuda'", lib)
		}
	}
	return ""
}
