package conf

import (
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-playground/validator/v10"

	"rbee"
)

// check is the list of values that do not fit, in the order of the struct.
func (c *Config) check() []fault {
	err := newValidator().Struct(c)
	var fields validator.ValidationErrors
	if !errors.As(err, &fields) {
		return nil
	}
	faults := make([]fault, 0, len(fields))
	for _, f := range fields {
		key := keyOf(f.Namespace())
		problem, suggestion := explain(f)
		faults = append(faults, fault{key: key, problem: problem, suggestion: suggestion, origin: c.originOf(key)})
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return a.origin.Line - b.origin.Line })
	return faults
}

// originOf finds where a setting was made; a missing one belongs to what it is missing from.
func (c *Config) originOf(key string) Origin {
	if o, ok := c.origins[key]; ok {
		return o
	}
	if i := strings.LastIndexByte(key, '.'); i > 0 {
		return c.origins[key[:i]]
	}
	return Origin{}
}

// keyOf turns the validator's Config.nodes[big].url into nodes.big.url.
func keyOf(namespace string) string {
	_, key, _ := strings.Cut(namespace, ".")
	return strings.ReplaceAll(strings.ReplaceAll(key, "[", "."), "]", "")
}

func newValidator() *validator.Validate {
	v := validator.New(validator.WithRequiredStructEnabled())
	v.RegisterTagNameFunc(yamlName)
	for tag, ok := range map[string]func(string) bool{
		"addr":       addrOK,
		"baseurl":    baseURLOK,
		"apikey":     keyOK,
		"abspath":    filepath.IsAbs,
		"name":       nameOK,
		"hours":      func(s string) bool { _, err := ParseHours(s); return err == nil },
		"models":     modelsOK,
		"hosts":      hostsOK,
		"keepalives": keepAlivesOK,
		"modelref":   func(s string) bool { _, err := rbee.ParseModelRef(s); return err == nil },
	} {
		check := func(f validator.FieldLevel) bool { return ok(f.Field().String()) }
		if err := v.RegisterValidation(tag, check); err != nil {
			panic("conf: " + err.Error()) // only for an empty tag: a mistake in the list above
		}
	}
	return v
}

// addrOK accepts HOST:PORT with a numeric port; an empty host means all interfaces.
func addrOK(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, " /@") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

func baseURLOK(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == "" && !strings.ContainsAny(s, " \t\n")
}

// nameOK accepts what can be a name on the command line and is no address or reference.
func nameOK(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '-' && s[0] != '.' && strings.IndexFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	}) < 0
}

// explain puts a failed check into words.
func explain(f validator.FieldError) (problem, suggestion string) {
	switch f.Tag() {
	case "addr":
		return "must be HOST:PORT", "for example 127.0.0.1:8080"
	case "baseurl":
		return "must be a URL with http or https and a host", "for example http://192.168.1.20:8080"
	case "required":
		return "is missing", "give the address, such as url: http://192.168.1.20:8080"
	case "apikey":
		if f.Field() == "join" {
			return "must be a token or a URL, without spaces", "get a token with 'rbee queen token' where the queen is"
		}
		return "must be printable ASCII without spaces", "make a key with: openssl rand -hex 32"
	case "excluded_with":
		return "and " + f.Field() + "_file exclude one another", "remove one of the two lines"
	case "abspath":
		return "must be an absolute path", "begin it with / or ~/"
	case "name":
		return "has a name that is not 1 to 64 letters, digits, '.', '_' or '-'", "choose another name"
	case "modelref":
		return "must be a model reference", "for example hf:ORG/REPO:Q4_K_M or file:/models/a.gguf"
	case "models":
		return "must be aliases or model references with commas between them", "for example qwen, file:/models/a.gguf"
	case "hosts":
		return "must be names or addresses of hosts, without ports, with commas between them", "for example bee.example, 192.168.1.20"
	case "keepalives":
		return "must be pairs of model=duration with commas between them", "for example qwen=1h, phi3=forever"
	case "hours":
		return "must be two different times of the day", hoursExample
	case "oneof":
		return "must be one of " + strings.Join(strings.Fields(f.Param()), ", "), ""
	case "min":
		return "must be at least " + f.Param(), ""
	case "max":
		return "must be at most " + f.Param(), ""
	}
	return "does not fit", ""
}

// expected puts into words what a setting is, for a value that cannot be read as one.
func expected(dst reflect.Value) (problem, suggestion string) {
	switch dst.Interface().(type) {
	case time.Duration:
		return "must be a duration with a unit", "for example 5m or 90s"
	case KeepAlive:
		return "must be a duration with a unit, or 0, or forever", "for example 5m"
	}
	switch dst.Kind() {
	case reflect.Int:
		return "must be a whole number", ""
	case reflect.Float64:
		return "must be a number", ""
	case reflect.String:
		return "must be a text", "write it on one line, in quotes if it holds special characters"
	}
	return "must be a value of another kind", ""
}
