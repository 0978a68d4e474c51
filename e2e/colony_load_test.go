//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	oai "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"rbee"
)

// shot is a request of the official client.
type shot struct {
	kind   string // chat, completion or embedding
	model  string
	prompt string
	stream bool
	tokens int64
	node   string          // hive that must serve it
	seen   chan<- struct{} // closed when its first text has come, if not nil
}

// hit is what came of a shot.
type hit struct {
	shot
	err    error
	code   rbee.Code     // of the error, "" for one that has none
	text   string        // what was produced
	first  time.Duration // of a stream
	worker string        // who answered, if the reply's head says so
}

// official is the official client of a queen.
func (q *queen) official() *oai.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	q.t.Cleanup(transport.CloseIdleConnections)
	c := oai.NewClient(option.WithBaseURL(q.base+"/v1"), option.WithAPIKey("any"), option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Transport: transport}))
	return &c
}

// fire sends a request and waits for the end of its reply.
func fire(ctx context.Context, c *oai.Client, s shot) hit {
	h := hit{shot: s}
	var resp *http.Response
	opts := []option.RequestOption{option.WithResponseInto(&resp)}
	if s.kind != "embedding" {
		opts = append(opts, option.WithJSONSet("ignore_eos", true))
	}
	if s.node != "" {
		opts = append(opts, option.WithHeader(rbee.NodeHeader, s.node))
	}
	began := time.Now()
	piece := func(text string) {
		if h.text += text; h.first == 0 && text != "" {
			h.first = time.Since(began)
			if s.seen != nil {
				close(s.seen)
			}
		}
	}
	switch s.kind {
	case "chat":
		h.err = fireChat(ctx, c, s, opts, piece)
	case "completion":
		h.err = fireCompletion(ctx, c, s, opts, piece)
	default:
		h.err = fireEmbedding(ctx, c, s, opts, piece)
	}
	if resp != nil {
		h.worker = resp.Header.Get(rbee.WorkerHeader)
	}
	h.code = codeIn(h.err)
	return h
}

func fireChat(ctx context.Context, c *oai.Client, s shot, opts []option.RequestOption, piece func(string)) error {
	params := oai.ChatCompletionNewParams{
		Model: s.model, MaxTokens: oai.Int(s.tokens), Messages: []oai.ChatCompletionMessageParamUnion{oai.UserMessage(s.prompt)},
	}
	if !s.stream {
		whole, err := c.Chat.Completions.New(ctx, params, opts...)
		if err == nil {
			piece(whole.Choices[0].Message.Content)
			err = enough(whole.Usage.CompletionTokens, s.tokens)
		}
		return err
	}
	params.StreamOptions.IncludeUsage = oai.Bool(true)
	stream, got := c.Chat.Completions.NewStreaming(ctx, params, opts...), int64(0)
	for stream.Next() {
		chunk := stream.Current()
		got = max(got, chunk.Usage.CompletionTokens)
		if len(chunk.Choices) > 0 {
			piece(chunk.Choices[0].Delta.Content)
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return enough(got, s.tokens)
}

func fireCompletion(ctx context.Context, c *oai.Client, s shot, opts []option.RequestOption, piece func(string)) error {
	params := oai.CompletionNewParams{
		Model: oai.CompletionNewParamsModel(s.model), MaxTokens: oai.Int(s.tokens), Prompt: oai.CompletionNewParamsPromptUnion{OfString: oai.String(s.prompt)},
	}
	if !s.stream {
		whole, err := c.Completions.New(ctx, params, opts...)
		if err == nil {
			piece(whole.Choices[0].Text)
			err = enough(whole.Usage.CompletionTokens, s.tokens)
		}
		return err
	}
	params.StreamOptions.IncludeUsage = oai.Bool(true)
	stream, got := c.Completions.NewStreaming(ctx, params, opts...), int64(0)
	for stream.Next() {
		chunk := stream.Current()
		got = max(got, chunk.Usage.CompletionTokens)
		if len(chunk.Choices) > 0 {
			piece(chunk.Choices[0].Text)
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return enough(got, s.tokens)
}

func fireEmbedding(ctx context.Context, c *oai.Client, s shot, opts []option.RequestOption, piece func(string)) error {
	reply, err := c.Embeddings.New(ctx, oai.EmbeddingNewParams{
		Model: s.model, Input: oai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{s.prompt, "a bee"}},
	}, opts...)
	if err == nil && len(reply.Data) != 2 {
		err = fmt.Errorf("%d vectors came for 2 texts", len(reply.Data))
	}
	if err == nil {
		piece("vectors")
	}
	return err
}

// enough says whether an answer came whole.
func enough(got, want int64) error {
	if got != want {
		return fmt.Errorf("%d tokens came instead of %d", got, want)
	}
	return nil
}

// codeIn is the code of an error as the official client has it: of a status, or
// of an event in a stream.
func codeIn(err error) rbee.Code {
	var e *oai.Error
	if errors.As(err, &e) {
		return rbee.Code(e.Code)
	}
	if err != nil {
		for code := range rbee.Codes() {
			if strings.Contains(err.Error(), `"`+string(code)+`"`) {
				return code
			}
		}
	}
	return ""
}

// mixed draws a request of a mixed load.
func mixed(random *rand.Rand, models []string) shot {
	const letters = "bcdfghklmnprstvw"
	word := ""
	for range 8 {
		word += string(letters[random.IntN(len(letters))])
	}
	s := shot{
		model:  models[random.IntN(len(models))],
		kind:   []string{"chat", "chat", "completion", "completion", "embedding"}[random.IntN(5)],
		stream: random.IntN(2) == 0,
		tokens: int64(1 + random.IntN(24)),
		prompt: word + strings.Repeat(" the bee flies over golden hills", random.IntN(12)),
	}
	if s.kind == "embedding" {
		s.stream = false
	}
	return s
}

// volley sends requests with so many clients at a time until next has none.
func volley(ctx context.Context, c *oai.Client, clients int, next func() (shot, bool)) (hits []hit) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for {
				mu.Lock()
				s, ok := next()
				mu.Unlock()
				if !ok {
					return
				}
				h := fire(ctx, c, s)
				mu.Lock()
				hits = append(hits, h)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return hits
}

// count is a next of volley for so many.
func count(n int, shoot func(i int) shot) func() (shot, bool) {
	i := 0
	return func() (shot, bool) {
		if i == n {
			return shot{}, false
		}
		i++
		return shoot(i - 1), true
	}
}

// barrage is load that goes on until it is stopped.
type barrage struct {
	over atomic.Bool
	all  sync.WaitGroup
	hits []hit
}

// barrage begins to load a queen.
func (q *queen) barrage(ctx context.Context, clients int, shoot func(i int) shot) *barrage {
	b, i := &barrage{}, 0
	b.all.Go(func() {
		b.hits = volley(ctx, q.official(), clients, func() (shot, bool) {
			i++
			return shoot(i), !b.over.Load()
		})
	})
	return b
}

// stop waits for the replies of what was sent.
func (b *barrage) stop() []hit {
	b.over.Store(true)
	b.all.Wait()
	return b.hits
}

// toll counts what came of requests.
type toll struct {
	answered int
	failed   map[rbee.Code]int
}

func (l toll) String() string { return fmt.Sprintf("%d answered, %v failed", l.answered, l.failed) }

// judge counts hits, and fails the test for each that neither was answered nor
// failed with a code, and for each that failed without a reason to.
func judge(t *testing.T, hits []hit, may ...rbee.Code) (l toll) {
	t.Helper()
	l.failed = map[rbee.Code]int{}
	for _, h := range hits {
		switch {
		case h.err == nil:
			l.answered++
			continue
		case h.code == "":
			t.Errorf("a request ended without an answer or a code after %d bytes: %+v: %v", len(h.text), h.shot, h.err)
		}
		l.failed[h.code]++
		allowed := false
		for _, code := range may {
			allowed = allowed || h.code == code
		}
		if h.code != "" && !allowed {
			t.Errorf("a request failed: %+v: %v", h.shot, h.err)
		}
	}
	sum := l.answered
	for _, n := range l.failed {
		sum += n
	}
	if sum != len(hits) {
		t.Errorf("%d requests were sent; %s", len(hits), l)
	}
	return l
}
