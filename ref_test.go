package rbee_test

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"rbee"
)

func TestHubReferencesAreTakenApart(t *testing.T) {
	commit := strings.Repeat("0123456789", 4)
	for in, want := range map[string]rbee.HubRef{
		"Qwen/Qwen2.5-0.5B-Instruct-GGUF":           {Repository: "Qwen/Qwen2.5-0.5B-Instruct-GGUF"},
		"hf:ggml-org/gpt-oss-20b-GGUF@main":         {Repository: "ggml-org/gpt-oss-20b-GGUF", Revision: "main"},
		"unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL":     {Repository: "unsloth/Qwen3-30B-A3B-GGUF", Quant: "UD-Q4_K_XL"},
		"hf:TheBloke/Llama-2-7B-GGUF@v1.0+x:q4_k_m": {Repository: "TheBloke/Llama-2-7B-GGUF", Revision: "v1.0+x", Quant: "q4_k_m"},
		"hf:a/b@" + commit + "::c.gguf":             {Repository: "a/b", Revision: commit, File: "c.gguf"},
		"a/b::Q8_0/model-00001-of-00003.gguf":       {Repository: "a/b", File: "Q8_0/model-00001-of-00003.gguf"},
		"a/b::mail@host/Grüße 1.gguf":               {Repository: "a/b", File: "mail@host/Grüße 1.gguf"},
		"hf:bartowski/Meta-Llama-3.1-8B-Instruct-GGUF::Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf": {
			Repository: "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", File: "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
		},
	} {
		ref, err := rbee.ParseModelRef(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, ok := ref.Hub()
		if !ok || got != want {
			t.Errorf("%q: got %+v, %v; want %+v", in, got, ok, want)
		}
		if again := got.ModelRef(); again != ref {
			t.Errorf("%q: put together as %v, want %v", in, again, ref)
		}
	}
	for _, in := range []string{"builtin:bee-tiny", "file:/a/b.gguf"} {
		ref, err := rbee.ParseModelRef(in)
		if _, ok := ref.Hub(); err != nil || ok {
			t.Errorf("%q: a reference of a hub, %v", in, err)
		}
	}
}

func TestHubReferencesThatWouldPrintOtherwiseAreRefused(t *testing.T) {
	for _, in := range []string{
		"a/b:::", "a/b:Q4::c.gguf", "a/b@:Q4", "a/b@::c.gguf", "a/b@v@w", "a/b@refs/pr/3", "a/b::c//d.gguf", "a/b::./c.gguf", "a/b::c/",
		"a/b::.", "a/b::c:d.gguf", "a/b::C:/d.gguf", "a/b::x..gguf", "a/b::c\u202egguf", "a/b::c\td", "a/b::c\u0085d", "hf:hf:a/b", "a/b:Q4:Q5",
		"a/" + strings.Repeat("b", 509), // 511 characters, 514 with its provider
	} {
		if ref, err := rbee.ParseModelRef(in); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%q: read as %v, %v", in, ref, err)
		}
	}
}

func TestReferencesOfExternalServersAreTakenApart(t *testing.T) {
	for in, want := range map[string]rbee.ExternalRef{
		"external:ollama/llama3.2:3b":              {Server: "ollama", Model: "llama3.2:3b"},
		"external:gpu.1/meta-llama/Llama-3.1-8B@x": {Server: "gpu.1", Model: "meta-llama/Llama-3.1-8B@x"},
		"external:a//models/b c.gguf":              {Server: "a", Model: "/models/b c.gguf"},
		"external:w/builtin:bee-tiny":              {Server: "w", Model: "builtin:bee-tiny"},
	} {
		ref, err := rbee.ParseModelRef(in)
		if got, ok := ref.External(); err != nil || !ok || got != want || ref.String() != in {
			t.Errorf("%q: got %+v, %v, %v", in, got, ok, err)
		}
	}
	for _, in := range []string{"external:", "external:a", "external:a/", "external:/a", "external:a b/c", "external:a/../b", "external:a/ b", "external:a/b\"c"} {
		if ref, err := rbee.ParseModelRef(in); rbee.CodeOf(err) != rbee.CodeInvalidRequest {
			t.Errorf("%q: read as %v, %v", in, ref, err)
		}
	}
	if _, ok := (rbee.ModelRef{Provider: rbee.ProviderHF, Reference: "a/b"}).External(); ok {
		t.Error("a model of a hub is one of an external server")
	}
}

func FuzzParseModelRef(f *testing.F) {
	for _, s := range []string{
		"builtin:bee-tiny", "file:/a.gguf", "hf:o/r@v:Q4", "o/r::d/f.gguf", "::", "@", "hf:a/b:::", "a/b:Q::f", "a/b@", "a/b::x/../y",
		"unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL", "a/b::\u202e", "file:/a/../b", "a/" + strings.Repeat("b", 509), "hf:a/" + strings.Repeat("ä", 507), "external:a/b:c/../d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := rbee.ParseModelRef(s)
		if err != nil {
			if rbee.CodeOf(err) != rbee.CodeInvalidRequest {
				t.Errorf("%q is refused with %v", s, err)
			}
			return
		}
		printed := ref.String()
		again, err := rbee.ParseModelRef(printed)
		if err != nil || again != ref {
			t.Errorf("%q reads as %v, which prints as %q and reads as %v, %v", s, ref, printed, again, err)
		}
		if n := utf8.RuneCountInString(printed); n > rbee.MaxRefCharacters {
			t.Errorf("%q has %d characters", printed, n)
		}
		if strings.Contains(s, "..") && (ref.Provider != rbee.ProviderFile || filepath.Clean(ref.Reference) != ref.Reference) {
			t.Errorf("%q holds '..' and was accepted", s)
		}
		if strings.ContainsFunc(printed, unicode.IsControl) || strings.ContainsAny(printed, "`$&|;<>(){}[]*?!\"'\\~#%^=,\u202e") {
			t.Errorf("%q has a control or shell character and was accepted", s)
		}
		h, ok := ref.Hub()
		if ok != (ref.Provider == rbee.ProviderHF) || ok && h.ModelRef() != ref {
			t.Errorf("%q is taken apart as %+v, %v", s, h, ok)
		}
		if h.File != "" && (!filepath.IsLocal(h.File) || h.Quant != "") {
			t.Errorf("%q names the file %q, quantisation %q", s, h.File, h.Quant)
		}
	})
}
