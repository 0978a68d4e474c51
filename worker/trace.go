package worker

import (
	"rbee/internal/tracing"
)

// trace tells on the span of a request how it went, and nothing of what it was
// about. The choices of one prompt count its tokens once.
func (w *Worker) trace(span *tracing.Span, operation, id string, outcomes []outcome, choices int, err error) {
	if span == nil {
		return
	}
	// The names that OpenTelemetry has for generative models, as far as it has some.
	span.Text("gen_ai.operation.name", operation)
	span.Text("gen_ai.provider.name", "rbee")
	span.Text("gen_ai.response.model", w.cfg.ModelRef)
	span.Text("gen_ai.response.id", id)
	if len(outcomes) > 0 {
		u, t := usage(outcomes, max(1, choices)), longest(outcomes)
		span.Int("gen_ai.usage.input_tokens", u.PromptTokens)
		span.Int("gen_ai.usage.output_tokens", u.CompletionTokens)
		span.Int("rbee.cached_tokens", u.Prompt.CachedTokens)
		span.Int("rbee.draft_tokens", t.DraftTokens)
		span.Int("rbee.accepted_tokens", t.AcceptedTokens)
		span.Float("rbee.queued_ms", t.QueuedMS)
		span.Float("rbee.prefill_ms", t.PrefillMS)
		span.Float("rbee.decode_ms", t.DecodeMS)
		span.Text("rbee.stop_reason", string(outcomes[0].done.StopReason))
	}
	span.End(err)
}
