package engines

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"rbee"
)

// bound are the libraries that the binding opens by their unversioned names.
func bound() []string { return []string{"llama", "ggml", "ggml-base"} }

// libraryFile is the unversioned file name of a library on this system.
func libraryFile(name string) string {
	switch runtime.GOOS {
	case "windows":
		return name + ".dll"
	case "darwin":
		return "lib" + name + ".dylib"
	default:
		return "lib" + name + ".so"
	}
}

// libraryPattern matches the files that belong to llama.cpp, with or without a
// version before or after the suffix.
func libraryPattern() *regexp.Regexp {
	switch runtime.GOOS {
	case "windows":
		return regexp.MustCompile(`(?i)^(llama|ggml)[\w.-]*\.dll$|^lib(omp|curl)[\w.-]*\.dll$`)
	case "darwin":
		return regexp.MustCompile(`^lib(llama|ggml)[\w.-]*\.dylib$`)
	default:
		return regexp.MustCompile(`^lib(llama|ggml)[\w.-]*\.so(\.[\d.]+)?$`)
	}
}

// versioned finds the file that holds a library: the unversioned name itself,
// or the one name that has something between the library's name and the suffix,
// or after it. "libggml-base.so" does not hold "ggml", "libggml.v0.5.0.so" does.
func versioned(library string, files []string) string {
	plain := libraryFile(library)
	if slices.Contains(files, plain) {
		return plain
	}
	suffix := filepath.Ext(plain)
	stem := strings.TrimSuffix(plain, suffix) + "."
	var found []string
	for _, f := range files {
		if strings.HasPrefix(f, stem) && strings.Contains(f, suffix) {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return slices.MaxFunc(found, func(a, b string) int { return len(a) - len(b) })
}

// missingFrom names the libraries without which the engine cannot start.
func missingFrom(files []string) []string {
	var missing []string
	for _, lib := range bound() {
		if versioned(lib, files) == "" {
			missing = append(missing, libraryFile(lib))
		}
	}
	if !slices.ContainsFunc(files, func(f string) bool { return holdsBackend(f, rbee.BackendCPU) }) {
		missing = append(missing, libraryFile("ggml-cpu*"))
	}
	return missing
}

// holdsBackend tells by its name whether a file drives a backend.
func holdsBackend(file string, b rbee.Backend) bool {
	stem := strings.TrimSuffix(libraryFile("ggml-"+string(b)), filepath.Ext(libraryFile("x")))
	rest, ok := strings.CutPrefix(file, stem)
	return ok && (strings.HasPrefix(rest, ".") || strings.HasPrefix(rest, "-"))
}

// addNames makes the unversioned names in a directory of libraries: links, or
// copies where the system has no links for everyone. It returns the names.
func addNames(root *os.Root, files []string) ([]string, error) {
	var added []string
	for _, lib := range bound() {
		plain, holder := libraryFile(lib), versioned(lib, files)
		if holder == "" || holder == plain {
			continue
		}
		if err := addName(root, holder, plain); err != nil {
			return nil, err
		}
		added = append(added, plain)
	}
	return added, nil
}

func addName(root *os.Root, holder, plain string) error {
	if runtime.GOOS != "windows" {
		return root.Symlink(holder, plain)
	}
	in, err := root.Open(holder)
	if err != nil {
		return err
	}
	_, err = writeFile(root, plain, in)
	if e := in.Close(); err == nil {
		err = e
	}
	return err
}
