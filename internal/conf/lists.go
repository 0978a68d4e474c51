package conf

import (
	"iter"
	"net"
	"strings"

	"rbee"
)

// List is texts with commas between them.
type List string

// Items are the texts, without the white space around them.
func (l List) Items() (items []string) {
	for item := range strings.SplitSeq(string(l), ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// KeepAlives are pairs such as qwen=1h, with commas between them: models, and
// how long their workers may be idle.
type KeepAlives string

// each yields the pairs that can be read.
func (k KeepAlives) each() iter.Seq2[string, KeepAlive] {
	return func(yield func(string, KeepAlive) bool) {
		for _, item := range List(k).Items() {
			model, text, _ := strings.Cut(item, "=")
			if keep, err := ParseKeepAlive(strings.TrimSpace(text)); err == nil && !yield(strings.TrimSpace(model), keep) {
				return
			}
		}
	}
}

// modelsOK accepts a List of models.
func modelsOK(s string) bool {
	for _, item := range List(s).Items() {
		if !modelOK(item) {
			return false
		}
	}
	return true
}

// modelOK accepts an alias or a model reference.
func modelOK(s string) bool {
	_, err := rbee.ParseModelRef(s)
	return err == nil || nameOK(s)
}

// hostsOK accepts a List of names and addresses of hosts.
func hostsOK(s string) bool {
	for _, host := range List(s).Items() {
		if net.ParseIP(host) == nil && strings.ContainsAny(host, ":/@ []") {
			return false
		}
	}
	return true
}

func keepAlivesOK(s string) bool {
	read := 0
	for model := range KeepAlives(s).each() {
		if !modelOK(model) {
			return false
		}
		read++
	}
	return read == len(List(s).Items())
}
