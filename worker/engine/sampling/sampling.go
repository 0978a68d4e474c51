// Package sampling picks the next token from a model's logits: bias, penalties,
// temperature, top-k, typical, top-p and min-p, exact and seeded, without
// sorting the vocabulary. It does no I/O and knows nothing of models.
package sampling

import (
	"math"

	"rbee"
)

// DefaultPenaltyWindow is how many of the last tokens a repetition penalty looks at.
const DefaultPenaltyWindow = 64

// Params say how to pick. The zero value is greedy: always the most likely token.
//
// The order is fixed: bias, penalties, top-k, typical, top-p, min-p,
// temperature. It is the order of llama.cpp's default chain, so the same
// settings mean the same. Each filter looks at what the one before it kept.
type Params struct {
	Temperature       float64           // 0 is greedy, whatever the filters say
	TopK              int               // keep the k most likely, 0 is off
	Typical           float64           // keep the most typical that together exceed p, 0 and 1 or more are off
	TopP              float64           // keep the most likely that together reach p; 0 keeps only the most likely, 1 or more is off
	MinP              float64           // keep those at least p times as likely as the most likely, 0 is off
	RepetitionPenalty float64           // 0 and 1 are off
	PenaltyWindow     int               // last tokens of prompt and answer that the repetition penalty looks at, 0 is DefaultPenaltyWindow
	FrequencyPenalty  float64           // is subtracted once for each time that the answer has the token, -2 to 2
	PresencePenalty   float64           // is subtracted if the answer has the token, -2 to 2
	Bias              map[int32]float32 // is added to the logits of these tokens; -100 or less bans a token
	Seed              uint64
}

// banned is the bias at which a token becomes impossible.
const banned = -100

// Faults lists what is wrong with the parameters; the field names are those of an inference request.
func (p Params) Faults() []rbee.Fault {
	var faults []rbee.Fault
	check := func(field string, ok bool, problem string) {
		if !ok {
			faults = append(faults, rbee.Fault{Field: field, Problem: problem})
		}
	}
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	check("temperature", finite(p.Temperature) && p.Temperature >= 0, "must be 0 or more")
	check("top_k", p.TopK >= 0, "must be 0 or more")
	check("typical_p", p.Typical >= 0 && p.Typical <= 1, "must be from 0 to 1")
	check("top_p", !math.IsNaN(p.TopP) && p.TopP >= 0, "must be 0 or more")
	check("min_p", p.MinP >= 0 && p.MinP <= 1, "must be from 0 to 1")
	check("repetition_penalty", finite(p.RepetitionPenalty) && p.RepetitionPenalty >= 0, "must be 0 or more")
	check("frequency_penalty", p.FrequencyPenalty >= -2 && p.FrequencyPenalty <= 2, "must be from -2 to 2")
	check("presence_penalty", p.PresencePenalty >= -2 && p.PresencePenalty <= 2, "must be from -2 to 2")
	for token, b := range p.Bias {
		if token < 0 || !(b <= 100) {
			check("logit_bias", false, "must have tokens of the vocabulary, and numbers up to 100")
			break
		}
	}
	return faults
}
