// Package models carries bee-tiny, the language model that ships inside the
// programs, so that a first story needs no download. MODELCARD.md says what the
// model can do, trainer/ how it was made.
//
// The package holds bytes and their digest. It writes no file and knows
// nothing of GGUF: the catalog's builtin provider puts the model on disk.
package models

import _ "embed"

// BeeTinyName is what stands after the colon of builtin:bee-tiny.
const BeeTinyName = "bee-tiny"

// BeeTinySHA256 is the SHA-256 of BeeTiny in lower-case hexadecimal.
const BeeTinySHA256 = "8660368f6739b13c06e49e9d853a1184d3aac784283e8bf70584a3c818cca45e"

// A string, because its bytes cannot be changed by anyone.
//
//go:embed bee-tiny.gguf
var beeTiny string

// BeeTiny returns the model, a GGUF file of 1.4 MB quantised to Q8_0. Each call
// makes a copy, which belongs to the caller.
func BeeTiny() []byte { return []byte(beeTiny) }
