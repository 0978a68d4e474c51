// What the official JavaScript client does with a worker or a queen, and with a model
// that is not there. Prints "done" at the end.
import assert from "node:assert/strict";
import OpenAI, { APIError } from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "any", maxRetries: 0 });
const model = "builtin:bee-tiny";
const unknown = process.argv[3];
const messages = [{ role: "user", content: "Tell me a story about a bee." }];
const greedy = { model, messages, temperature: 0, max_tokens: 24 };

// Chat, whole and streamed.
const whole = await client.chat.completions.create(greedy);
const text = whole.choices[0].message.content;
assert.ok(text.length > 0);
assert.equal(whole.usage.completion_tokens, 24);
let streamed = "";
let usage;
for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.total_tokens, whole.usage.total_tokens);

// A call of a tool, through the helper that puts a stream together.
const tools = [{
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { town: { enum: ["Bern", "Basel"] } }, required: ["town"], additionalProperties: false },
  },
}];
const called = await client.chat.completions
  .stream({ ...greedy, max_tokens: 400, tools, tool_choice: "required" })
  .finalChatCompletion();
assert.equal(called.choices[0].finish_reason, "tool_calls");
const call = called.choices[0].message.tool_calls[0];
assert.equal(call.function.name, "weather");
assert.ok(["Bern", "Basel"].includes(JSON.parse(call.function.arguments).town));

// JSON that fits a schema.
const formatted = await client.chat.completions.create({
  ...greedy,
  max_tokens: 400,
  response_format: {
    type: "json_schema",
    json_schema: { name: "answer", schema: { type: "object", properties: { kind: { enum: ["bee", "wasp"] } }, required: ["kind"], additionalProperties: false } },
  },
});
assert.ok(["bee", "wasp"].includes(JSON.parse(formatted.choices[0].message.content).kind));

// Completions, models, embeddings (the client asks for base64 by itself).
const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 8, echo: true });
assert.ok(completion.choices[0].text.startsWith("Once upon a time"));
assert.equal((await client.models.list()).data[0].id, model);
const vectors = await client.embeddings.create({ model, input: ["a bee", "a bee", "something else"] });
const [a, b, c] = vectors.data.map((d) => d.embedding);
const dot = (x, y) => x.reduce((sum, v, i) => sum + v * y[i], 0);
assert.ok(Math.abs(dot(a, b) - 1) < 1e-3);
assert.ok(dot(a, c) < 0.9999);

// Errors.
await assert.rejects(client.chat.completions.create({ ...greedy, model: unknown }),
  (e) => e instanceof APIError && e.status === 404 && e.code === "MODEL_NOT_FOUND" && e.param === "model");
await assert.rejects(client.chat.completions.create({ ...greedy, temperature: 9 }),
  (e) => e instanceof APIError && e.status === 400 && e.type === "invalid_request_error" && e.param === "temperature");
await assert.rejects(client.chat.completions.create({ ...greedy, messages: [{ role: "user", content: "bee ".repeat(20000) }] }),
  (e) => e instanceof APIError && e.code === "CONTEXT_LENGTH_EXCEEDED");

// Cancel: the stream ends, and the next request is served.
const stream = await client.chat.completions.create({ ...greedy, max_tokens: 400, ignore_eos: true, stream: true });
for await (const chunk of stream) {
  assert.equal(chunk.object, "chat.completion.chunk");
  stream.controller.abort();
}
assert.equal((await client.chat.completions.create(greedy)).choices[0].message.content, text);
console.log("done");
