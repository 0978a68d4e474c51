package fake

import (
	"context"
	"math"
	"math/rand/v2"

	"rbee/worker/engine"
)

// embedding is the length of the fake's vectors.
const embedding = 16

// Embed implements engine.Engine. Equal inputs have equal vectors.
func (e *Engine) Embed(ctx context.Context, inputs [][]engine.Token) ([][]float32, error) {
	if e.isClosed() {
		return nil, engine.ErrClosed()
	}
	if err := engine.CheckInputs(inputs, e.info); err != nil {
		return nil, err
	}
	var out [][]float32
	for _, tokens := range inputs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out = append(out, vector(tokens))
	}
	return out, nil
}

func vector(tokens []engine.Token) []float32 {
	random := rand.New(rand.NewPCG(hash(tokens), 0)) //nolint:gosec // not for secrets
	out := make([]float32, embedding)
	sum := 0.0
	for i := range out {
		v := random.NormFloat64()
		out[i] = float32(v)
		sum += v * v
	}
	for i := range out {
		out[i] /= float32(math.Sqrt(sum))
	}
	return out
}

// Slots implements engine.Engine. The fake's slots are no more than busy or not.
func (e *Engine) Slots() []engine.SlotInfo {
	busy := e.gate.Counts().Busy
	out := make([]engine.SlotInfo, e.info.Slots)
	for i := range out {
		out[i] = engine.SlotInfo{Slot: i, State: engine.SlotIdle}
		if i < busy {
			out[i].State = engine.SlotGenerating
		}
	}
	return out
}
