package rbee

// Backend is a kind of compute that the engine can drive.
type Backend string

// The backends, slowest first.
const (
	BackendCPU    Backend = "cpu"
	BackendVulkan Backend = "vulkan"
	BackendMetal  Backend = "metal"
	BackendCUDA   Backend = "cuda"
)

// Backends lists all backends that rbee knows, in the order of preference.
func Backends() []Backend {
	return []Backend{BackendCUDA, BackendMetal, BackendVulkan, BackendCPU}
}

// DeviceID names a device of a machine: cpu, cuda0, vulkan1, metal0.
type DeviceID string

// Device is something a model can be loaded on.
type Device struct {
	ID          DeviceID `json:"id" example:"cuda0"`
	Kind        Backend  `json:"kind" enum:"cpu,cuda,metal,vulkan"`
	Name        string   `json:"name"`
	MemoryTotal int64    `json:"memory_total" doc:"bytes"`
	MemoryFree  int64    `json:"memory_free" doc:"bytes free at the time of the request"`
}

// BackendStatus says whether a backend is usable on a machine, and if not, why.
type BackendStatus struct {
	Backend   Backend `json:"backend" enum:"cpu,cuda,metal,vulkan"`
	Available bool    `json:"available"`
	Reason    string  `json:"reason,omitempty" doc:"why it is not available, and what to do"`
}

// DeviceList is the body of GET /v1/devices.
type DeviceList struct {
	Devices  []Device        `json:"devices" nullable:"false"`
	Backends []BackendStatus `json:"backends" nullable:"false"`
}
