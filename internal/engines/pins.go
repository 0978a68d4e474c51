package engines

import (
	"path"

	"rbee"
)

// Version is the release of llama.cpp that the binding was made for.
const Version = "v0.5.0"

// libDirName is the directory of the libraries below the one of a Store.
const libDirName = "llama.cpp-" + Version

const pinnedVersion = "3.22.1"

// pin is a package that was looked at: its digest, and which of its files matter.
type pin struct {
	backend     rbee.Backend
	name        string   // package name for npm
	integrity   string   // of the archive: "sha512-" and base64, as npm writes it
	packedBytes int64    // size of the archive
	folder      string   // folder of the libraries in the archive
	keep        []string // patterns of the files taken from the folder
	runtime     []string // libraries of the system that its own library needs
}

func (p pin) spec() string { return p.name + "@" + pinnedVersion }

// wants tells whether a file of the archive is taken.
func (p pin) wants(name string) bool {
	if path.Dir(name) != p.folder {
		return false
	}
	for _, pattern := range p.keep {
		if ok, err := path.Match(pattern, path.Base(name)); err == nil && ok {
			return true
		}
	}
	return false
}

// pinsOf lists the packages of a platform. The accelerators' packages carry
// the same base as the one of the CPU under other names, so only the library of
// the accelerator is taken from them. CUDA has two: the first needs the runtime
// of CUDA 13, the second that of CUDA 12.
func pinsOf(goos, goarch string) []pin {
	base := []string{"libllama." + Version + ".so", "libggml." + Version + ".so", "libggml-base.so", "libggml-cpu*.so"}
	switch goos + "/" + goarch {
	case "linux/amd64":
		return []pin{
			{
				backend: rbee.BackendCPU, name: "@node-llama-cpp/linux-x64", packedBytes: 10_824_547,
				integrity: "sha512-5uCCDNqWCNfaAm8aR/Uzxbo4HBpKgNF91kCHPepKhgMgV2OAmatoefbOlMihsqCiH2Od35E/eUHQCFbfRBJuOg==",
				folder:    "package/bins/linux-x64", keep: base,
			},
			{
				backend: rbee.BackendVulkan, name: "@node-llama-cpp/linux-x64-vulkan", packedBytes: 24_311_427,
				integrity: "sha512-bBxqU+JOcBu1nb5Qj2zcMci+JByT1E8EajHvYodyNfVIPkEhXh+/HMwR1/BT7xP08YK0hks+kM8fglER0P8JEg==",
				folder:    "package/bins/linux-x64-vulkan", keep: []string{"libggml-vulkan.so"},
			},
			{
				backend: rbee.BackendCUDA, name: "@node-llama-cpp/linux-x64-cuda", packedBytes: 142_898_030,
				integrity: "sha512-8rQCjyNNLZJUFit+YpjwlC4hwkKgOMIkB2wuycKBf8NU2O3ySKbiWZQ8aw9ku2nUTXjSnUIrE6KB88itduTBuA==",
				folder:    "package/bins/linux-x64-cuda", keep: []string{"libggml-cuda.so"},
				runtime: []string{"libcudart.so.13", "libcublas.so.13"},
			},
			{
				backend: rbee.BackendCUDA, name: "@node-llama-cpp/linux-x64-cuda-ext", packedBytes: 176_664_119,
				integrity: "sha512-4e5ajkiM2aR2WAdB/N/ACk4weEhHvOAIrzxZPsIX0xDFW5+6hhShuy1/vs88SK9NGdgAco9IyE28eYS0H1efpA==",
				folder:    "package/bins/linux-x64-cuda/fallback", keep: []string{"libggml-cuda.so"},
				runtime: []string{"libcudart.so.12", "libcublas.so.12"},
			},
		}
	case "linux/arm64":
		return []pin{{
			backend: rbee.BackendCPU, name: "@node-llama-cpp/linux-arm64", packedBytes: 7_340_902,
			integrity: "sha512-W+7naKCXX9/eEjjFmRS8vvx91QyLXDbeFxexZc3bh/PtQABZgmRL3C0AtYYXn4YGTj/3Qor4lWZn2tpjZFPLdQ==",
			folder:    "package/bins/linux-arm64", keep: base,
		}}
	case "linux/arm":
		return []pin{{
			backend: rbee.BackendCPU, name: "@node-llama-cpp/linux-armv7l", packedBytes: 4_342_646,
			integrity: "sha512-v/pHg4BcQHRDna+YYq4vWp44HCFluar4hAiB732Pa5PF89flMXhHSku68tQn+25RJjuc3TtoeY/i57WnX9GrdQ==",
			folder:    "package/bins/linux-armv7l", keep: base,
		}}
	}
	return nil
}
