package rbee

import (
	"fmt"
	"path"
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

	// ProviderExternal has no bytes for us: a server that no hive started has them.
	ProviderExternal Provider = "external"
)

// MaxRefCharacters bounds the length of a model reference.
const MaxRefCharacters = 512

const refForms = "accepted forms: builtin:NAME, file:/absolute/path.gguf, hf:ORG/REPO[@REV][:QUANT | ::FILE], ORG/REPO[:QUANT], external:SERVER/MODEL, or an alias"

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
	if utf8.RuneCountInString(ref.String()) > MaxRefCharacters {
		return bad(fmt.Sprintf("with its provider it has more than %d characters", MaxRefCharacters))
	}
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
		if why := hubFault(ref); why != "" {
			return bad(why)
		}
	case ProviderExternal:
		if _, ok := ref.External(); !ok {
			return bad("an external model has a server and its name there, such as external:ollama/llama3.2:3b")
		}
	default:
		return bad("it is neither a known provider nor an alias of the configuration")
	}
	return ref, nil
}

func forbiddenInRef(c rune) bool {
	return unicode.In(c, unicode.Cc, unicode.Bidi_Control) || strings.ContainsRune("`$&|;<>(){}[]*?!\"'\\~#%^=,", c)
}

// HubRef is a model reference of a hub, taken apart: ORG/REPO[@REV][:QUANT | ::FILE].
type HubRef struct {
	Repository string // ORG/REPO
	Revision   string // a branch, a tag or a commit, "" for the hub's default
	Quant      string // such as Q4_K_M, as it was written, or ""
	File       string // path in the repository, or ""; never there with Quant
}

// Hub takes a reference that ParseModelRef made apart; false if it is of
// another provider than a hub.
func (r ModelRef) Hub() (HubRef, bool) {
	if r.Provider != ProviderHF {
		return HubRef{}, false
	}
	var h HubRef
	repo, file, hasFile := strings.Cut(r.Reference, "::")
	if hasFile {
		h.File = file
	} else {
		repo, h.Quant, _ = strings.Cut(r.Reference, ":")
	}
	h.Repository, h.Revision, _ = strings.Cut(repo, "@")
	return h, true
}

// ModelRef puts the reference together again; Hub undoes it.
func (h HubRef) ModelRef() ModelRef {
	s := h.Repository
	if h.Revision != "" {
		s += "@" + h.Revision
	}
	switch {
	case h.File != "":
		s += "::" + h.File
	case h.Quant != "":
		s += ":" + h.Quant
	}
	return ModelRef{Provider: ProviderHF, Reference: s}
}

// ExternalRef is a model reference of an external server, taken apart: SERVER/MODEL.
type ExternalRef struct {
	Server string // as the hive's settings call it
	Model  string // as the server calls it
}

// External takes a reference apart; false if it is not one of an external server.
func (r ModelRef) External() (ExternalRef, bool) {
	server, model, _ := strings.Cut(r.Reference, "/")
	ok := r.Provider == ProviderExternal && nameOK(server) && model != "" && strings.TrimSpace(model) == model &&
		!strings.Contains(model, "..")
	return ExternalRef{Server: server, Model: model}, ok
}

// hubFault says what is wrong with a reference of a hub, or "".
func hubFault(r ModelRef) string {
	h, _ := r.Hub()
	org, name, ok := strings.Cut(h.Repository, "/")
	switch {
	case !ok || !nameOK(org) || !nameOK(name):
		return "a hub model has an organisation and a repository, such as hf:ORG/REPO"
	case h.Revision != "" && !nameOK(h.Revision):
		return "the revision after '@' is not a plain name"
	case h.Quant != "" && !nameOK(h.Quant):
		return "the quantisation after ':' is not a plain name, such as Q4_K_M"
	case h.File != "" && !fileOK(h.File):
		return "the file after '::' is not a path inside the repository"
	case h.ModelRef() != r:
		return "what should follow '@', ':' or '::' is missing"
	}
	return ""
}

// fileOK accepts a path that stays inside a repository on every system.
func fileOK(s string) bool {
	return filepath.IsLocal(s) && path.Clean(s) == s && s != "." && !strings.Contains(s, ":") && !strings.Contains(s, "..")
}

// nameOK accepts one path element of letters, digits, '.', '_', '-' and '+' that is not made of dots alone.
func nameOK(s string) bool {
	return strings.Trim(s, ".") != "" && !strings.Contains(s, "..") && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c < utf8.RuneSelf && (unicode.IsLetter(c) || unicode.IsDigit(c)) || strings.ContainsRune("._-+", c))
	})
}
