package provision

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"rbee"
	"rbee/internal/hub"
)

const (
	maxNamed    = 20   // quantisations or files that a message names
	maxVariants = 1000 // of a repository; each costs an estimate, real ones have less than a hundred
)

// preferred are the quantisations that the hive takes unasked, best first.
var preferred = [...]string{"Q4_K_M", "Q5_K_M", "Q4_0", "Q8_0", "F16"}

// variant is one way to have a model: a GGUF file of a repository, or all the
// parts of one.
type variant struct {
	quantisation string // upper case, "" if the name does not tell
	files        []hub.File
	sizeBytes    int64 // of all files
	stem         string
}

// path is the file that names the variant: the only one, or the first part.
func (v variant) path() string { return v.files[0].Path }

// called is what a person calls the variant.
func (v variant) called() string { return cmp.Or(v.quantisation, v.path()) }

// partName matches the parts of a split model; part and count have five digits.
var partName = regexp.MustCompile(`(?i)^(.+)-(\d{5})-of-(\d{5})\.gguf$`)

// variantsOf finds the models among the files of a repository, best first.
// Projectors, importance matrices and vocabularies are none, nor is a split
// model of which a part is missing, nor a file whose name leaves the repository.
func variantsOf(files []hub.File) []variant {
	var vs []variant
	parts := map[string]map[int]hub.File{} // by what the names of the parts share
	seen := map[string]bool{}
	for _, f := range files {
		if seen[f.Path] || !strings.EqualFold(path.Ext(f.Path), ".gguf") || !plain(f.Path) || f.SizeBytes <= 0 {
			continue
		}
		seen[f.Path] = true
		m := partName.FindStringSubmatch(f.Path)
		if m == nil {
			vs = addVariant(vs, f.Path[:len(f.Path)-len(".gguf")], []hub.File{f})
			continue
		}
		whole := m[1] + "-of-" + m[3]
		if parts[whole] == nil {
			parts[whole] = map[int]hub.File{}
		}
		parts[whole][number(m[2])] = f
	}
	for whole, have := range parts {
		count := number(whole[len(whole)-5:])
		var all []hub.File
		for i := 1; i <= count && len(have) == count; i++ {
			if f, ok := have[i]; ok {
				all = append(all, f)
			}
		}
		if count > 0 && len(all) == count {
			vs = addVariant(vs, whole[:len(whole)-len("-of-00001")], all)
		}
	}
	order(vs)
	return vs[:min(len(vs), maxVariants)]
}

// plain accepts a path that stays inside the repository and can be shown.
func plain(p string) bool {
	return filepath.IsLocal(p) && len(p) <= rbee.MaxRefCharacters && !strings.ContainsFunc(p, unicode.IsControl) && utf8.ValidString(p)
}

func number(fiveDigits string) int {
	n, _ := strconv.Atoi(fiveDigits) // the expression lets only digits through
	return n
}

// addVariant appends the model of the files, unless their name says that they are no model.
func addVariant(vs []variant, stem string, files []hub.File) []variant {
	v := variant{quantisation: quantisationOf(stem), files: files, stem: path.Base(stem)}
	lower := strings.ToLower(stem)
	name := path.Base(lower)
	switch {
	case strings.Contains(lower, "mmproj"), strings.HasPrefix(name, "imatrix"), strings.HasPrefix(name, "ggml-vocab"):
		return vs
	case v.quantisation != "": // a model may have been made with an importance matrix
	case strings.Contains(name, "imatrix"), strings.Contains(name, "calibration"), strings.Contains(name, "vocab"):
		return vs
	}
	for _, f := range files {
		v.sizeBytes += f.SizeBytes
	}
	return append(vs, v)
}

// quantName matches a quantisation between the ends of a word, or underscores.
var quantName = regexp.MustCompile(`(?i)(?:^|_)(I?Q[1-9](?:_(?:[0-9]|K|NL|XXS|XS|S|M|L|XL|KV|KT|KS|KSS|KL|R[48]))*|TQ[12]_0|I2_S|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?:_|$)`)

// quantisationOf finds the quantisation in a file's name, else in the folders
// that it is in; the last one counts.
func quantisationOf(stem string) string {
	elements := strings.Split(stem, "/")
	for _, element := range slices.Backward(elements) {
		words := strings.FieldsFunc(element, func(c rune) bool { return strings.ContainsRune("-. ", c) })
		for i, word := range slices.Backward(words) {
			m := quantName.FindStringSubmatch(word)
			if m == nil {
				continue
			}
			quant := canonical(m[1])
			// Unsloth's mixtures are named after the type that most weights have.
			if i > 0 && strings.EqualFold(words[i-1], "UD") {
				quant = "UD-" + quant
			}
			return quant
		}
	}
	return ""
}

// canonical is how a quantisation is printed; fp16 is how some spell F16.
func canonical(quant string) string {
	quant = strings.ToUpper(quant)
	if quant == "FP16" || quant == "FP32" {
		return "F" + quant[2:]
	}
	return quant
}

// rank is the place among the preferred quantisations, or behind them.
func rank(v variant) int {
	if i := slices.Index(preferred[:], v.quantisation); i >= 0 {
		return i
	}
	return len(preferred)
}

// order sorts variants as the hive tries them: the preferred quantisations in
// their order, then the others, the largest first.
func order(vs []variant) {
	slices.SortFunc(vs, func(a, b variant) int {
		byRank := cmp.Compare(rank(a), rank(b))
		return cmp.Or(byRank, cmp.Compare(b.sizeBytes, a.sizeBytes), cmp.Compare(a.path(), b.path()))
	})
}

// choose finds the variant that a reference asks for, whether it fits or not. If
// it names neither a file nor a quantisation and there are several, it is the
// first, in the order of order, whose need is at most free. It fails with
// MODEL_NOT_FOUND if there is none, INVALID_REQUEST if several are meant, and
// INSUFFICIENT_RAM if none fits.
func choose(ref rbee.HubRef, vs []variant, need func(variant) int64, free int64) (variant, error) {
	vs = slices.Clone(vs)
	order(vs)
	switch {
	case len(vs) == 0:
		return variant{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find a model in GGUF format in the repository %s", ref.Repository).
			Suggest("look for a repository with GGUF files, 'rbee models search %s' finds some", path.Base(ref.Repository))
	case ref.File != "":
		return withFile(ref, vs)
	case ref.Quant != "":
		return withQuantisation(ref, vs)
	case len(vs) == 1:
		return vs[0], nil
	}
	return fitting(ref, vs, need, free)
}

// withFile finds the variant that a file belongs to.
func withFile(ref rbee.HubRef, vs []variant) (variant, error) {
	for _, v := range vs {
		if slices.ContainsFunc(v.files, func(f hub.File) bool { return f.Path == ref.File }) {
			return v, nil
		}
	}
	return variant{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find a whole model of the name %s in the repository %s", ref.File, ref.Repository).
		Suggest("name one of its models: %s", list(vs, variant.path))
}

// withQuantisation finds the one variant of a quantisation.
func withQuantisation(ref rbee.HubRef, vs []variant) (variant, error) {
	same := ofQuantisation(vs, canonical(ref.Quant))
	if len(same) == 0 {
		return variant{}, rbee.Errorf(rbee.CodeModelNotFound, "cannot find the quantisation %s in the repository %s", ref.Quant, ref.Repository).
			Suggest("name one of those that it has: %s", list(vs, variant.called))
	}
	return plainest(ref, same)
}

func ofQuantisation(vs []variant, quant string) []variant {
	return slices.DeleteFunc(slices.Clone(vs), func(v variant) bool { return v.quantisation != quant })
}

// plainest finds the variant that is meant if several have one quantisation.
func plainest(ref rbee.HubRef, same []variant) (variant, error) {
	quant, left := same[0].quantisation, same
	narrow := func(better func(variant) bool) {
		if rest := slices.DeleteFunc(slices.Clone(left), func(v variant) bool { return !better(v) }); len(rest) > 0 {
			left = rest
		}
	}
	narrow(func(v variant) bool { return strings.HasSuffix(canonical(v.stem), quant) }) // nothing follows the quantisation
	narrow(func(v variant) bool { return !strings.Contains(v.path(), "/") })
	if !slices.ContainsFunc(left, func(v variant) bool { return v.stem != left[0].stem }) {
		narrow(func(v variant) bool { return !partName.MatchString(v.path()) }) // one file, and the same in parts
	}
	if len(left) == 1 {
		return left[0], nil
	}
	return variant{}, rbee.Errorf(rbee.CodeInvalidRequest, "the repository %s has %d models of the quantisation %s: %s", ref.Repository, len(left), quant, list(left, variant.path)).
		Suggest("name the file, as in %s", rbee.HubRef{Repository: ref.Repository, Revision: ref.Revision, File: left[0].path()}.ModelRef())
}

// fitting takes the first variant that fits.
func fitting(ref rbee.HubRef, vs []variant, need func(variant) int64, free int64) (variant, error) {
	for _, quant := range preferred {
		same := ofQuantisation(vs, quant)
		if len(same) == 0 {
			continue
		}
		v, err := plainest(ref, same)
		if err != nil || need(v) <= free {
			return v, err
		}
	}
	var smallest variant
	least := int64(-1)
	for _, v := range vs {
		n := need(v)
		if n <= free && rank(v) == len(preferred) {
			return v, nil
		}
		if least < 0 || n < least {
			smallest, least = v, n
		}
	}
	const megabyte = 1_000_000
	// Rounded apart, so that what is short by a byte never reads as enough.
	required, available := (least+megabyte-1)/megabyte, max(free, 0)/megabyte
	return variant{}, rbee.Errorf(rbee.CodeInsufficientRAM, "no variant of %s fits: the smallest, %s, needs %d MB and %d MB are free", ref.Repository, smallest.called(), required, available).
		With("required", required).With("available", available).
		Suggest("choose a smaller model, or name a quantisation to have it all the same, as in %s", refOf(ref, smallest, vs))
}

// refOf is the reference that asks for just this variant out of vs.
func refOf(ref rbee.HubRef, v variant, vs []variant) rbee.ModelRef {
	ref.Quant, ref.File = "", ""
	if v.quantisation != "" && len(ofQuantisation(vs, v.quantisation)) == 1 {
		ref.Quant = v.quantisation
	} else {
		ref.File = v.path()
	}
	return ref.ModelRef()
}

// list names variants, each name once and not too many.
func list(vs []variant, name func(variant) string) string {
	var names []string
	seen := map[string]bool{}
	for _, v := range vs {
		if n := name(v); !seen[n] {
			names, seen[n] = append(names, n), true
		}
	}
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
