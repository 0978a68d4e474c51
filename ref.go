package rbee

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Provider says where the bytes of a model come from.
type Provider string

// The providers.
const (
	ProviderBuiltin Provider = "builtin" // embedded in the program
	ProviderFile    Provider = "file"    // a GGUF file on the hive's machine
	ProviderHF      Provider = "hf"      // a Hugging Face hub
)

// MaxRefCharacters bounds the length of a model reference.
const MaxRefCharacters = 512

const refForms = "accepted forms: builtin:NAME, file:/absolute/path.gguf, hf:ORG/REPO[@REV][:QUANT | ::FILE], ORG/REPO[:QUANT], or an alias"

// ModelRef names a model: a provider, and what that provider understands. The
// JSON form is the printed form. The zero value names nothing.
type ModelRef struct {
	Provider  Provider
	Reference string
}

// String prints the form that ParseModelRef reads.
func (r ModelRef) String() string {
	if r.Provider == "" {
		return ""
	}
	return string(r.Provider) + ":" + r.Reference
}

// MarshalText implements encoding.TextMarshaler.
func (r ModelRef) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty text is the zero value.
func (r *ModelRef) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*r = ModelRef{}
		return nil
	}
	ref, err := ParseModelRef(string(b))
	*r = ref
	return err
}

// ParseModelRef reads a model reference. An alias must be resolved before (see
// Aliases). It fails with INVALID_REQUEST and the accepted forms.
func ParseModelRef(s string) (ModelRef, error) {
	bad := func(why string) (ModelRef, error) {
		return ModelRef{}, Errorf(CodeInvalidRequest, "cannot read the model reference: %s", why).Suggest(refForms)
	}
	switch {
	case s == "":
		return bad("it is empty")
	case !utf8.ValidString(s):
		return bad("it is not valid UTF-8")
	case utf8.RuneCountInString(s) > MaxRefCharacters:
		return bad(fmt.Sprintf("it has more than %d characters", MaxRefCharacters))
	case !strings.ContainsAny(s, ":/"):
		return bad(fmt.Sprintf("%q is not an alias of the configuration, and a reference has a ':' or a '/'", s))
	case strings.ContainsFunc(s, forbiddenInRef):
		return bad("it has a control character or a character that means something to a shell")
	}
	provider, rest, found := strings.Cut(s, ":")
	if !found || strings.Contains(provider, "/") {
		provider, rest = string(ProviderHF), s
	}
	ref := ModelRef{Provider: Provider(provider), Reference: rest}
	switch ref.Provider {
	case ProviderBuiltin:
		if !nameOK(rest) {
			return bad("a builtin model has a plain name, such as builtin:bee-tiny")
		}
	case ProviderFile:
		if !filepath.IsAbs(rest) || filepath.Clean(rest) != rest {
			return bad("a file needs an absolute path without '..', such as file:/models/a.gguf")
		}
	case ProviderHF:
		if why := hubRefFault(rest); why != "" {
			return bad(why)
		}
	default:
		return bad("it is neither a known provider nor an alias of the configuration")
	}
	return ref, nil
}

func forbiddenInRef(c rune) bool {
	return unicode.IsControl(c) || strings.ContainsRune("`$&|;<>(){}[]*?!\"'\\~#%^=,", c)
}

// hubRefFault says what is wrong with ORG/REPO[@REV][:QUANT | ::FILE], or "".
func hubRefFault(s string) string {
	repo, file, hasFile := strings.Cut(s, "::")
	quant, hasQuant := "", false
	if !hasFile {
		repo, quant, hasQuant = strings.Cut(s, ":")
	}
	repo, rev, hasRev := strings.Cut(repo, "@")
	org, name, ok := strings.Cut(repo, "/")
	switch {
	case !ok || !nameOK(org) || !nameOK(name):
		return "a hub model has an organisation and a repository, such as hf:ORG/REPO"
	case hasRev && !nameOK(rev):
		return "the revision after '@' is not a plain name"
	case hasQuant && !nameOK(quant):
		return "the quantisation after ':' is not a plain name, such as Q4_K_M"
	case hasFile && (!filepath.IsLocal(file) || filepath.ToSlash(filepath.Clean(file)) != file || file == "."):
		return "the file after '::' is not a path inside the repository"
	}
	return ""
}

// nameOK accepts one path element of letters, digits, '.', '_', '-' and '+' that is not made of dots alone.
func nameOK(s string) bool {
	return strings.Trim(s, ".") != "" && !strings.Contains(s, "..") && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c)) || strings.ContainsRune("._-+", c))
	})
}
