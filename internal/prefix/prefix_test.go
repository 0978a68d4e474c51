package prefix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const chatPath = "/v1/chat/completions"

// long is a text of n bytes.
func long(n int) string { return strings.Repeat("All work and no play. ", n/22+1)[:n] }

func chat(system, user string) []byte {
	b, err := json.Marshal(map[string]any{"model": "m", "messages": []map[string]string{
		{"role": "system", "content": system}, {"role": "user", "content": user},
	}})
	if err != nil {
		panic(err)
	}
	return b
}

func TestRequestsThatBeginAlikeShareTheirFirstHashes(t *testing.T) {
	a, aBytes := Of(chatPath, chat(long(1000), long(700)))
	b, _ := Of(chatPath, chat(long(1000), "Else. "+long(700)))
	if aBytes < 1700 || aBytes > 1740 || len(a) != aBytes/BlockBytes {
		t.Fatalf("%d bytes, %d hashes", aBytes, len(a))
	}
	if n := Shared(a, b); n != 1000/BlockBytes {
		t.Errorf("share %d blocks, not %d", n, 1000/BlockBytes)
	}
	other, _ := Of(chatPath, chat("X"+long(1000), long(700)))
	if n := Shared(a, other); n != 0 {
		t.Errorf("share %d blocks with another beginning", n)
	}
}

func TestATurnMoreContinuesTheChain(t *testing.T) {
	messages := fmt.Sprintf(`{"role":"user","content":%q}`, long(900))
	first, firstBytes := Of(chatPath, fmt.Appendf(nil, `{"messages":[%s]}`, messages))
	second, _ := Of(chatPath, fmt.Appendf(nil, `{"messages":[%s,{"role":"assistant","content":%q}]}`, messages, long(900)))
	if Shared(first, second) != firstBytes/BlockBytes || len(second) <= len(first) {
		t.Errorf("%d hashes of %d are shared", Shared(first, second), len(first))
	}
}

func TestOnlyThePromptMatters(t *testing.T) {
	text := long(600) + "é\n\""
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := Of(chatPath, fmt.Appendf(nil, `{"tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"user","content":%s}]}`, quoted))
	if len(want) != 2 {
		t.Fatalf("%d hashes", len(want))
	}
	ascii := strings.ReplaceAll(string(quoted), "é", `\u00e9`)
	for name, body := range map[string]string{
		"other fields first": `{"model":"x","seed":[1,{"a":"}"}],"messages":[{"role":"user","content":` + string(quoted) + `}],"tools":[{"type":"function","function":{"name":"f"}}]}`,
		"white space":        "{ \"tools\" : [ {\n\"type\": \"function\", \"function\": {\"name\": \"f\"} } ],\t\"messages\" : [ { \"content\": " + string(quoted) + ", \"role\" : \"user\" } ] }",
		"escapes":            `{"tools":[{"type":"function","function":{"name":"\u0066"}}],"mess\u0061ges":[{"role":"user","content":` + ascii + `}]}`,
		"parts":              `{"tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"user","content":[{"type":"text","text":` + string(quoted) + `}]}]}`,
	} {
		if got, _ := Of(chatPath, []byte(body)); !slices.Equal(got, want) {
			t.Errorf("%s: %x, not %x", name, got, want)
		}
	}
	for name, body := range map[string]string{
		"no tools":   `{"messages":[{"role":"user","content":` + string(quoted) + `}]}`,
		"other role": `{"tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"system","content":` + string(quoted) + `}]}`,
	} {
		if got, _ := Of(chatPath, []byte(body)); Shared(got, want) != 0 {
			t.Errorf("%s makes no difference", name)
		}
	}
}

func TestCompletionsAndEmbeddings(t *testing.T) {
	one, n := Of("/v1/completions", fmt.Appendf(nil, `{"prompt":%q}`, long(600)))
	if len(one) != 2 || n != 600 {
		t.Errorf("%d hashes of %d bytes", len(one), n)
	}
	list, _ := Of("/v1/completions", fmt.Appendf(nil, `{"prompt":[%q,"b"]}`, long(600)))
	own, _ := Of("/v1/inference", fmt.Appendf(nil, `{"prompt":%q}`, long(600)))
	if !slices.Equal(one, list) || !slices.Equal(one, own) {
		t.Errorf("the same prompt: %x, %x, %x", one, list, own)
	}
	if tokens, n := Of("/v1/completions", []byte(`{"prompt":[`+strings.Repeat("17, ", 200)+`1]}`)); len(tokens) != 2 || n < 600 {
		t.Errorf("tokens: %d hashes of %d bytes", len(tokens), n)
	}
	if chain, n := Of("/v1/embeddings", fmt.Appendf(nil, `{"input":%q}`, long(600))); chain != nil || n != 600 {
		t.Errorf("embeddings: %x of %d bytes", chain, n)
	}
	if chain, n := Of("/v1/tokenize", []byte(`{"text":"a"}`)); chain != nil || n != 0 {
		t.Errorf("no prompt: %x of %d bytes", chain, n)
	}
}

func TestAChainIsBounded(t *testing.T) {
	chain, n := Of(chatPath, chat("", long(2*MaxBlocks*BlockBytes)))
	if len(chain) != MaxBlocks || n < 2*MaxBlocks*BlockBytes {
		t.Errorf("%d hashes of %d bytes", len(chain), n)
	}
	deep := []byte(`{"messages":` + strings.Repeat("[", 4<<20))
	_, _ = Of(chatPath, deep) // in one pass: a deep body is no way to keep a queen busy
}

// The chain of a body depends on its prompt, not on how the JSON is written.
func FuzzOf(f *testing.F) {
	f.Add(string(chat(long(300), "hi")))
	f.Add(`{"prompt":["a",[1,2]]}`)
	f.Add(`{"messages":[{"role":"user","content":[{"type":"text","text":"\ud83d\ude00\\"}],"tool_calls":[{"a":null}]}],"tools":{}}`)
	f.Add(`{"messages":[{"content":"` + "\\")
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{chatPath, "/v1/completions", "/v1/embeddings"} {
			chain, n := Of(path, []byte(body))
			if n > 2*len(body)+16 && n > 8*len(body) || len(chain) > n/BlockBytes {
				t.Fatalf("%d bytes and %d hashes of a body of %d", n, len(chain), len(body))
			}
			var indented bytes.Buffer
			if json.Indent(&indented, []byte(body), " ", "\t") != nil {
				continue
			}
			if again, m := Of(path, indented.Bytes()); m != n || !slices.Equal(again, chain) {
				t.Fatalf("%s: %d bytes %x, and written with white space %d bytes %x", path, n, chain, m, again)
			}
		}
	})
}

func BenchmarkOf(b *testing.B) {
	body := chat(long(6000), long(2000)+"\n")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		Of(chatPath, body)
	}
}
