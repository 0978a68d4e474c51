package provision

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rbee"
	"rbee/internal/hub"
)

// Names as real repositories have them, with sizes in MB where they matter.
var (
	theBloke = listed("README.md", "config.json", "llama-2-7b.Q2_K.gguf", "llama-2-7b.Q3_K_L.gguf", "llama-2-7b.Q3_K_M.gguf",
		"llama-2-7b.Q3_K_S.gguf", "llama-2-7b.Q4_0.gguf", "llama-2-7b.Q4_K_M.gguf", "llama-2-7b.Q4_K_S.gguf", "llama-2-7b.Q5_0.gguf",
		"llama-2-7b.Q5_K_M.gguf", "llama-2-7b.Q5_K_S.gguf", "llama-2-7b.Q6_K.gguf", "llama-2-7b.Q8_0.gguf")
	bartowski = listed("gemma-3-27b-it-IQ2_M.gguf", "gemma-3-27b-it-IQ4_NL.gguf", "gemma-3-27b-it-Q3_K_XL.gguf", "gemma-3-27b-it-Q4_0.gguf",
		"gemma-3-27b-it-Q4_K_L.gguf", "gemma-3-27b-it-Q4_K_M.gguf", "gemma-3-27b-it-Q6_K_L.gguf", "gemma-3-27b-it-imatrix.gguf", "gemma-3-27b-it.imatrix",
		"gemma-3-27b-it-bf16/gemma-3-27b-it-bf16-00001-of-00002.gguf", "gemma-3-27b-it-bf16/gemma-3-27b-it-bf16-00002-of-00002.gguf",
		"mmproj-gemma-3-27b-it-bf16.gguf", "mmproj-gemma-3-27b-it-f16.gguf", "calibration_data.gguf")
	qwen = listed("LICENSE", "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf", "qwen2.5-7b-instruct-fp16-00002-of-00002.gguf", "qwen2.5-7b-instruct-q2_k.gguf",
		"qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "qwen2.5-7b-instruct-q4_k_m-00002-of-00002.gguf", "qwen2.5-7b-instruct-q8_0.gguf")
	unsloth = listed("BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf", "BF16/Qwen3-30B-A3B-BF16-00002-of-00002.gguf", "Qwen3-30B-A3B-IQ4_XS.gguf",
		"Qwen3-30B-A3B-Q4_K_M.gguf", "Qwen3-30B-A3B-Q8_0.gguf", "Qwen3-30B-A3B-UD-IQ1_S.gguf", "Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "imatrix_unsloth.gguf")
	ggmlOrg   = listed("gpt-oss-20b-mxfp4.gguf", "README.md")
	bloomsday = listed("TinyLlama-1.1B-Chat-v1.0.F16.gguf", "ggml-vocab-llama-bpe.gguf", "model.gguf")
	bitnet    = listed("TriLM-TQ1_0.gguf", "TriLM-TQ2_0.gguf", "ggml-model-i2_s.gguf", "TriLM.FP32.GGUF")
)

func listed(names ...string) []hub.File {
	files := make([]hub.File, len(names))
	for i, name := range names {
		files[i] = hub.File{Path: name, SizeBytes: int64(i+1) * 1e6}
	}
	return files
}

// told are variants as quantisation, parts and first file.
func told(vs []variant) []string {
	var lines []string
	for _, v := range vs {
		lines = append(lines, fmt.Sprintf("%s×%d %s", v.quantisation, len(v.files), v.path()))
	}
	return lines
}

func TestTheVariantsOfARepository(t *testing.T) {
	for name, c := range map[string]struct {
		files []hub.File
		want  []string
	}{
		"a projector, matrices and parts in a folder": {bartowski, []string{
			"Q4_K_M×1 gemma-3-27b-it-Q4_K_M.gguf", "Q4_0×1 gemma-3-27b-it-Q4_0.gguf",
			"BF16×2 gemma-3-27b-it-bf16/gemma-3-27b-it-bf16-00001-of-00002.gguf", "Q6_K_L×1 gemma-3-27b-it-Q6_K_L.gguf",
			"Q4_K_L×1 gemma-3-27b-it-Q4_K_L.gguf", "Q3_K_XL×1 gemma-3-27b-it-Q3_K_XL.gguf", "IQ4_NL×1 gemma-3-27b-it-IQ4_NL.gguf",
			"IQ2_M×1 gemma-3-27b-it-IQ2_M.gguf",
		}},
		"lower case and parts": {qwen, []string{
			"Q4_K_M×2 qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q8_0×1 qwen2.5-7b-instruct-q8_0.gguf",
			"F16×2 qwen2.5-7b-instruct-fp16-00001-of-00002.gguf", "Q2_K×1 qwen2.5-7b-instruct-q2_k.gguf",
		}},
		"mixtures of Unsloth": {unsloth, []string{
			"Q4_K_M×1 Qwen3-30B-A3B-Q4_K_M.gguf", "Q8_0×1 Qwen3-30B-A3B-Q8_0.gguf", "UD-Q4_K_XL×1 Qwen3-30B-A3B-UD-Q4_K_XL.gguf",
			"UD-IQ1_S×1 Qwen3-30B-A3B-UD-IQ1_S.gguf", "BF16×2 BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf", "IQ4_XS×1 Qwen3-30B-A3B-IQ4_XS.gguf",
		}},
		"one file": {ggmlOrg, []string{"MXFP4×1 gpt-oss-20b-mxfp4.gguf"}},
		"a vocabulary, and a name that tells nothing": {bloomsday, []string{"F16×1 TinyLlama-1.1B-Chat-v1.0.F16.gguf", "×1 model.gguf"}},
		"three values": {bitnet, []string{
			"F32×1 TriLM.FP32.GGUF", "I2_S×1 ggml-model-i2_s.gguf", "TQ2_0×1 TriLM-TQ2_0.gguf", "TQ1_0×1 TriLM-TQ1_0.gguf",
		}},
		"only the folder tells": {
			listed("Q8_0/model-00001-of-00003.gguf", "Q8_0/model-00003-of-00003.gguf", "Q8_0/model-00002-of-00003.gguf", "UD-Q2_K_XL/m.gguf"),
			[]string{"Q8_0×3 Q8_0/model-00001-of-00003.gguf", "UD-Q2_K_XL×1 UD-Q2_K_XL/m.gguf"},
		},
		"other programs and adapters": {listed("a.gguf.part1of2", "a.safetensors", "a.Q4_K_M.gguf-split-a", ".gguf", "gguf"), []string{"×1 .gguf"}},
		"parts that are missing or too many": {listed("a-Q8_0-00001-of-00003.gguf", "a-Q8_0-00003-of-00003.gguf", "b-00002-of-00001.gguf", "c-00000-of-00000.gguf",
			"d-00000-of-00002.gguf", "d-00001-of-00002.gguf", "e-00001-of-00001.gguf", "f-00001-of-99999.gguf"), []string{"×1 e-00001-of-00001.gguf"}},
		"names that lead elsewhere": {listed("../../x.gguf", "/etc/x.gguf", "a/../../x.gguf", "x\x00.gguf", "x\x1b[2J.gguf", "\xff.gguf",
			strings.Repeat("x", 4096)+".gguf", ""), nil},
		"a name twice":     {listed("a.gguf", "a.gguf", "b-00001-of-00002.gguf", "b-00001-of-00002.gguf"), []string{"×1 a.gguf"}},
		"files of nothing": {[]hub.File{{Path: "a.gguf"}, {Path: "b.gguf", SizeBytes: -1}}, nil},
		"nothing":          {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, told(variantsOf(c.files))); d != "" {
				t.Error(d)
			}
			shuffled := slices.Clone(c.files)
			rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if d := cmp.Diff(c.want, told(variantsOf(shuffled))); d != "" {
				t.Error("in another order of the listing:", d)
			}
		})
	}
}

func TestThePartsOfAModelAreInOrderAndCountedTogether(t *testing.T) {
	files := listed("m-00010-of-00010.gguf", "m-00009-of-00010.gguf", "m-00008-of-00010.gguf", "m-00007-of-00010.gguf", "m-00006-of-00010.gguf",
		"m-00005-of-00010.gguf", "m-00004-of-00010.gguf", "m-00003-of-00010.gguf", "m-00002-of-00010.gguf", "m-00001-of-00010.gguf")
	vs := variantsOf(files)
	slices.Reverse(files)
	if len(vs) != 1 || vs[0].sizeBytes != 55e6 || !slices.Equal(vs[0].files, files) {
		t.Errorf("%+v", vs)
	}
}

func TestAHugeListingHasABoundedNumberOfVariants(t *testing.T) {
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("%d-Q4_K_M.gguf", i)
	}
	if n := len(variantsOf(listed(names...))); n != maxVariants {
		t.Errorf("%d variants", n)
	}
}

func TestTheQuantisationInAName(t *testing.T) {
	for stem, want := range map[string]string{
		"tinyllama-1.1b-chat-v1.0.Q4_K_M": "Q4_K_M", "Phi-3-mini-4k-instruct-q4": "Q4", "Phi-3-mini-4k-instruct-fp16": "F16", "model_Q5_K_S": "Q5_K_S",
		"a.i1-IQ3_XXS": "IQ3_XXS", "a-Q4_0_4_4": "Q4_0_4_4", "a-Q2_K_L": "Q2_K_L", "a-ud-q8_k_xl": "UD-Q8_K_XL", "a-IQ4_KS": "IQ4_KS", "a-IQ5_KS_R4": "IQ5_KS_R4",
		"gpt-oss-120b-MXFP4_MOE": "MXFP4_MOE", "a-NVFP4": "NVFP4", "a-bf16": "BF16", "a-f32": "F32", "a-F16-Q4_K_M": "Q4_K_M", "a-Q6_K_imat": "Q6_K",
		"BF16/a-Q8_0": "Q8_0", "Q8_0/x/a": "Q8_0", "UD-IQ2_M/UD-a": "UD-IQ2_M", "a Q4_1": "Q4_1", "Q4_K_M": "Q4_K_M",
		"a": "", "Llama-3.1-8B": "", "Qwen2.5-72B": "", "a-Q0_K": "", "aQ4_0": "", "q": "", "a-f64": "", "UD": "", "a-16": "", "": "", "-._/": "",
	} {
		if got := quantisationOf(stem); got != want {
			t.Errorf("%q: %q, want %q", stem, got, want)
		}
	}
}

// size is a need for tests: that of the file.
func size(v variant) int64 { return v.sizeBytes }

func TestTheVariantThatAReferenceAsksFor(t *testing.T) {
	sizes := func(pairs ...any) []hub.File {
		var files []hub.File
		for i := 0; i < len(pairs); i += 2 {
			files = append(files, hub.File{Path: pairs[i].(string), SizeBytes: int64(pairs[i+1].(int)) * 1e6})
		}
		return files
	}
	ladder := sizes("m-Q2_K.gguf", 200, "m-Q3_K_M.gguf", 300, "m-Q4_0.gguf", 390, "m-Q4_K_M.gguf", 400, "m-Q5_K_M.gguf", 500, "m-Q6_K.gguf", 600, "m-Q8_0.gguf", 800, "m-F16.gguf", 1600)
	for name, c := range map[string]struct {
		files []hub.File
		ref   string
		free  int64 // MB
		want  string
	}{
		"the best":                         {ladder, "o/r", 5000, "m-Q4_K_M.gguf"},
		"just fits":                        {ladder, "o/r", 400, "m-Q4_K_M.gguf"},
		"the next of the preferred":        {ladder, "o/r", 399, "m-Q4_0.gguf"},
		"none of the preferred fits":       {ladder, "o/r", 350, "m-Q3_K_M.gguf"},
		"the last that fits":               {ladder, "o/r", 200, "m-Q2_K.gguf"},
		"no Q4_K_M":                        {ladder[4:], "o/r", 5000, "m-Q5_K_M.gguf"},
		"no Q4_K_M, less room":             {sizes("m-Q5_K_M.gguf", 500, "m-Q3_K_M.gguf", 300, "m-IQ4_XS.gguf", 350), "o/r", 499, "m-IQ4_XS.gguf"},
		"a mixture is not preferred":       {unsloth, "o/r", 5000, "Qwen3-30B-A3B-Q4_K_M.gguf"},
		"only one, though it has no room":  {ggmlOrg, "o/r", 0, "gpt-oss-20b-mxfp4.gguf"},
		"only one, without a quantisation": {listed("model.gguf"), "o/r", 0, "model.gguf"},
		"a quantisation":                   {ladder, "o/r:Q6_K", 5000, "m-Q6_K.gguf"},
		"a quantisation without room":      {ladder, "o/r:F16", 0, "m-F16.gguf"},
		"a quantisation in lower case":     {theBloke, "o/r:q3_k_l", 5000, "llama-2-7b.Q3_K_L.gguf"},
		"a quantisation, otherwise spelt":  {qwen, "o/r:FP16", 5000, "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf"},
		"a quantisation of a fp16 file":    {qwen, "o/r:F16", 5000, "qwen2.5-7b-instruct-fp16-00001-of-00002.gguf"},
		"a mixture":                        {unsloth, "o/r:ud-q4_k_xl", 5000, "Qwen3-30B-A3B-UD-Q4_K_XL.gguf"},
		"parts":                            {qwen, "o/r:Q4_K_M", 5000, "qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf"},
		"a file":                           {theBloke, "o/r::llama-2-7b.Q8_0.gguf", 0, "llama-2-7b.Q8_0.gguf"},
		"the first part":                   {unsloth, "o/r::BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf", 0, "BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf"},
		"a later part":                     {unsloth, "o/r::BF16/Qwen3-30B-A3B-BF16-00002-of-00002.gguf", 0, "BF16/Qwen3-30B-A3B-BF16-00001-of-00002.gguf"},
		"two, one with something behind":   {listed("m-Q4_K_M-imat.gguf", "m-Q4_K_M.gguf"), "o/r:Q4_K_M", 5000, "m-Q4_K_M.gguf"},
		"two, one in a folder":             {listed("old/m-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "o/r", 5000, "m-Q4_K_M.gguf"},
		"whole and in parts":               {listed("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0.gguf"), "o/r:Q8_0", 5000, "m-Q8_0.gguf"},
		"one of several models by file":    {listed("2b-Q4_K_M.gguf", "7b-Q4_K_M.gguf"), "o/r::7b-Q4_K_M.gguf", 5000, "7b-Q4_K_M.gguf"},
	} {
		t.Run(name, func(t *testing.T) {
			ref, err := rbee.ParseModelRef(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			h, _ := ref.Hub()
			vs := variantsOf(c.files)
			slices.Reverse(vs) // choose does not rely on the order
			v, err := choose(h, vs, size, c.free*1e6)
			if err != nil || v.path() != c.want {
				t.Errorf("%+v, %v", v.files, err)
			}
		})
	}
}

func TestWhatCannotBeChosenIsExplained(t *testing.T) {
	many := make([]string, 60)
	for i := range many {
		many[i] = fmt.Sprintf("%02d.gguf", i)
	}
	for name, c := range map[string]struct {
		files         []hub.File
		ref           string
		code          rbee.Code
		says, suggest []string
	}{
		"no GGUF":               {listed("model.safetensors", "mmproj-F16.gguf"), "o/Llama-3", rbee.CodeModelNotFound, []string{"o/Llama-3"}, []string{"rbee models search Llama-3"}},
		"a part is missing":     {listed("a-00001-of-00002.gguf"), "o/r", rbee.CodeModelNotFound, []string{"o/r"}, []string{"search"}},
		"no such quantisation":  {theBloke, "o/r:Q9_K", rbee.CodeModelNotFound, []string{"Q9_K", "o/r"}, []string{"Q4_K_M, Q5_K_M, Q4_0, Q8_0, Q6_K"}},
		"only part of its name": {theBloke, "o/r:Q4", rbee.CodeModelNotFound, []string{"Q4"}, []string{"Q4_K_M"}},
		"no such file":          {theBloke, "o/r::llama-2-7b.gguf", rbee.CodeModelNotFound, []string{"llama-2-7b.gguf"}, []string{"llama-2-7b.Q4_K_M.gguf"}},
		"a projector":           {bartowski, "o/r::mmproj-gemma-3-27b-it-f16.gguf", rbee.CodeModelNotFound, []string{"mmproj"}, []string{"gemma-3-27b-it-Q4_K_M.gguf"}},
		"several models": {
			listed("2b-Q4_K_M.gguf", "7b-Q4_K_M.gguf", "7b-Q2_K.gguf"), "o/r@v1:Q4_K_M", rbee.CodeInvalidRequest,
			[]string{"2 models of the quantisation Q4_K_M", "2b-Q4_K_M.gguf", "7b-Q4_K_M.gguf"},
			[]string{"hf:o/r@v1::7b-Q4_K_M.gguf"},
		},
		"several models, unasked": {listed("2b-Q4_K_M.gguf", "7b-Q4_K_M.gguf"), "o/r", rbee.CodeInvalidRequest, []string{"2 models"}, []string{"::"}},
		"nothing fits": {
			listed("x.gguf", "m-Q4_K_M.gguf", "m-Q3_K_M.gguf"), "o/r@v1", rbee.CodeInsufficientRAM,
			[]string{"x.gguf", "1 MB", "0 MB"},
			[]string{"hf:o/r@v1::x.gguf", "smaller model"},
		},
		"too many to name": {listed(many...), "o/r:Q4_K_M", rbee.CodeModelNotFound, []string{"Q4_K_M"}, []string{"and 40 more"}},
	} {
		t.Run(name, func(t *testing.T) {
			ref, err := rbee.ParseModelRef(c.ref)
			if err != nil {
				t.Fatal(err)
			}
			h, _ := ref.Hub()
			v, err := choose(h, variantsOf(c.files), size, 999_999)
			e := rbee.AsError(err)
			if e == nil || e.Code != c.code {
				t.Fatalf("%+v, %v", v, err)
			}
			for _, s := range c.says {
				if !strings.Contains(e.Message, s) {
					t.Errorf("%q does not say %q", e.Message, s)
				}
			}
			for _, s := range c.suggest {
				if !strings.Contains(e.Suggestion(), s) {
					t.Errorf("%q does not suggest %q", e.Suggestion(), s)
				}
			}
			if c.code == rbee.CodeInsufficientRAM && (e.Details["required"] != int64(1) || e.Details["available"] != int64(0)) {
				t.Errorf("details %v", e.Details)
			}
		})
	}
}

func TestTheReferenceOfAVariantAsksForIt(t *testing.T) {
	base := rbee.HubRef{Repository: "o/r", Revision: "v1"}
	for _, files := range [][]hub.File{theBloke, bartowski, qwen, unsloth, ggmlOrg, bloomsday, bitnet, listed("2b-Q4_K_M.gguf", "7b-Q4_K_M.gguf")} {
		vs := variantsOf(files)
		for _, v := range vs {
			ref, err := rbee.ParseModelRef(refOf(base, v, vs).String())
			if err != nil {
				t.Errorf("%s: %v", v.path(), err)
				continue
			}
			h, _ := ref.Hub()
			if got, err := choose(h, vs, size, 0); err != nil || got.path() != v.path() || h.Revision != "v1" {
				t.Errorf("%s is asked for as %s, which is %v, %v", v.path(), ref, got.files, err)
			}
		}
	}
}
