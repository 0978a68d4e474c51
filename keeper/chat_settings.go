package keeper

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"rbee/client"
)

// chatSetting is a flag of chat, and what /set changes.
type chatSetting struct {
	name, help string
	low, high  float64
	whole      bool
}

func chatSettingTable() []chatSetting {
	const most = 1 << 53 // up to here a float64 has each whole number
	return []chatSetting{
		{"temperature", "0 to 2; 0 always takes the likeliest token (default 0.7)", 0, 2, false},
		{"top-p", "0 to 1: sample from the likeliest tokens that make up this share (default 1)", 0, 1, false},
		{"top-k", "sample from so many of the likeliest tokens; 0 is off (default 0)", 0, math.MaxInt32, true},
		{"min-p", "0 to 1: drop tokens below this share of the likeliest one's; 0 is off (default 0)", 0, 1, false},
		{"max-tokens", "most tokens of an answer (default what the context has room for)", 1, math.MaxInt32, true},
		{"seed", "seed of the sampler, for the same answers again (default random)", 0, most, true},
	}
}

func chatSettingNames() []string {
	var names []string
	for _, setting := range chatSettingTable() {
		names = append(names, setting.name)
	}
	return names
}

// chatSettings are how the answers of a conversation are sampled. What is
// absent is the worker's choice.
type chatSettings map[string]float64

// set changes a setting; "default" takes a change back.
func (s chatSettings) set(name, value string) error {
	name = strings.ReplaceAll(name, "_", "-")
	for _, setting := range chatSettingTable() {
		if setting.name != name {
			continue
		}
		if value == "default" {
			delete(s, name)
			return nil
		}
		x, err := strconv.ParseFloat(value, 64)
		if err != nil || math.IsNaN(x) || x < setting.low || x > setting.high || setting.whole && x != math.Trunc(x) {
			what := "a number"
			if setting.whole {
				what = "a whole number"
			}
			return fmt.Errorf("%s must be %s from %s to %s", name, what, decimal(setting.low), decimal(setting.high))
		}
		s[name] = x
		return nil
	}
	return fmt.Errorf("there is no setting %q; there are %s", name, strings.Join(chatSettingNames(), ", "))
}

// show is a setting as one would type it.
func (s chatSettings) show(name string) string {
	if x, ok := s[name]; ok {
		return decimal(x)
	}
	return "default"
}

func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// apply gives a request the settings.
func (s chatSettings) apply(r *client.ChatRequest) {
	number := func(name string) *float64 {
		if x, ok := s[name]; ok {
			return &x
		}
		return nil
	}
	whole := func(name string) *int {
		if x, ok := s[name]; ok {
			n := int(x)
			return &n
		}
		return nil
	}
	r.Temperature, r.TopP, r.MinP = number("temperature"), number("top-p"), number("min-p")
	r.TopK, r.MaxTokens = whole("top-k"), whole("max-tokens")
	if x, ok := s["seed"]; ok {
		n := uint64(x)
		r.Seed = &n
	}
}
