package ggufgen

import "fmt"

type pair struct {
	key   string
	value any
}

// Token kinds of llama.cpp's tokenizers.
const (
	kindNormal  = 1
	kindUnknown = 2
	kindControl = 3
	kindByte    = 6
)

// firstPiece is the id after <unk>, <s>, </s>, the 256 bytes and the 95
// printable characters.
const firstPiece = 3 + 256 + 95

func (s Shape) metadata() []pair {
	u := func(n int) uint32 { return uint32(n) }
	l, _ := s.Type.layout() // the shape was checked
	tokens, scores, kinds := s.vocabulary()
	return []pair{
		{"general.architecture", "llama"},
		{"general.name", "random " + s.Name},
		{"general.file_type", l.fileType},
		{"llama.block_count", u(s.Layers)},
		{"llama.context_length", u(s.Context)},
		{"llama.embedding_length", u(s.Width)},
		{"llama.feed_forward_length", u(s.FeedForward)},
		{"llama.attention.head_count", u(s.Heads)},
		{"llama.attention.head_count_kv", u(s.KVHeads)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"llama.rope.dimension_count", u(s.Width / s.Heads)},
		{"llama.rope.freq_base", float32(10000)},
		{"llama.vocab_size", u(s.Vocab)},
		{"tokenizer.ggml.model", "llama"},
		{"tokenizer.ggml.tokens", tokens},
		{"tokenizer.ggml.scores", scores},
		{"tokenizer.ggml.token_type", kinds},
		{"tokenizer.ggml.unknown_token_id", uint32(0)},
		{"tokenizer.ggml.bos_token_id", uint32(1)},
		{"tokenizer.ggml.eos_token_id", uint32(2)},
		{"tokenizer.ggml.add_bos_token", true},
		{"tokenizer.ggml.add_space_prefix", false},
	}
}

// vocabulary makes a SentencePiece-style vocabulary with byte fallback. Every
// piece beyond the characters is a word of its own; with the lowest scores
// last, no text needs them, but a random model says them.
func (s Shape) vocabulary() (tokens []string, scores []float32, kinds []int32) {
	add := func(text string, score float32, kind int32) {
		tokens, scores, kinds = append(tokens, text), append(scores, score), append(kinds, kind)
	}
	add("<unk>", 0, kindUnknown)
	add("<s>", 0, kindControl)
	add("</s>", 0, kindControl)
	for b := range 256 {
		add(fmt.Sprintf("<0x%02X>", b), 0, kindByte)
	}
	add("▁", -1, kindNormal) // how SentencePiece writes a space
	for c := '!'; c <= '~'; c++ {
		add(string(c), -1, kindNormal)
	}
	for i := len(tokens); i < s.Vocab; i++ {
		add("▁"+word(i), -float32(i), kindNormal)
	}
	return tokens, scores, kinds
}

// word spells a number in syllables, so that output reads as words.
func word(n int) string {
	const consonants, vowels = "bdfghklmnprstvz", "aeiou"
	var w []byte
	for ; n > 0; n /= len(consonants) * len(vowels) {
		syllable := n % (len(consonants) * len(vowels))
		w = append(w, consonants[syllable/len(vowels)], vowels[syllable%len(vowels)])
	}
	return string(w)
}
