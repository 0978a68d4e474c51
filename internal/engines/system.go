package engines

import (
	"rbee"
)

type systemNeed struct{ library, debian string }

// systemNeeds are the libraries of a Linux system that the engine needs and a
// small installation may not have.
func systemNeeds() []systemNeed {
	return []systemNeed{{"libffi.so.8", "libffi8"}, {"libstdc++.so.6", "libstdc++6"}}
}

// CheckFFI tells whether the binding can call the engine: on Linux it opens the
// system's libffi, and a program that does so without one dies at its start.
// Elsewhere the binding brings its own. It fails with BACKEND_UNAVAILABLE and
// the command that helps.
func CheckFFI() error { return checkFFI(needsSystemFFI, findLibrary) }

func checkFFI(needed bool, find func(string) string) error {
	ffi := systemNeeds()[0]
	if !needed || find(ffi.library) != "" {
		return nil
	}
	return rbee.Errorf(rbee.CodeBackendUnavailable, "cannot use the engine: %s is not installed", ffi.library).
		Suggest("on Debian or Ubuntu: 'apt-get install %s'; on Fedora: 'dnf install libffi'", ffi.debian)
}
