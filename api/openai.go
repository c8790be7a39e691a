package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mmserve/mmserve/pipeline"
)

// embeddingsRequest is OpenAI's POST /v1/embeddings; input may also hold content parts.
type embeddingsRequest struct {
	Model      string          `json:"model"`
	Input      json.RawMessage `json:"input"`
	Format     string          `json:"encoding_format"` // float or base64
	Dimensions int             `json:"dimensions"`
	User       string          `json:"user"`
}

// embeddings answers OpenAI's embeddings route with unit-length pooled vectors.
func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var req embeddingsRequest
	if err := decodeJSON(r.Context(), r.Body, &req); err != nil {
		return err
	}
	if req.Format != "" && req.Format != "float" && req.Format != "base64" {
		return fieldProblem("encoding_format", "wants float or base64, not "+quote(req.Format))
	}
	items, err := s.embeddingInputs(req.Input)
	if err != nil {
		return err
	}
	if req.Dimensions < 0 {
		return fieldProblem("dimensions", "is negative")
	}
	name, err := s.model(req.Model)
	if err != nil {
		return err
	}
	if err := s.fetchItems(r.Context(), items); err != nil {
		return err
	}
	m, release, err := s.Store.Acquire(r.Context(), name)
	if err != nil {
		return err
	}
	defer release()
	identify(w, m)
	j := &job{req: &workRequest{Model: name, Atomic: true}, items: items, model: m, plan: m.Plan, ctx: r.Context()}
	data := make([]any, 0, len(items))
	tokens := 0
	err = s.each(j, func(ctx context.Context, it pipeline.Item, res *result) (err error) {
		res.encoding, err = m.Encode(ctx, it, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputPooled}})
		return err
	}, func(i int, res *result) error {
		v := res.encoding.Pooled
		if req.Dimensions > len(v.Data) {
			return fieldProblem("dimensions", fmt.Sprintf("is %d; the model gives %d", req.Dimensions, len(v.Data)))
		}
		if req.Dimensions > 0 {
			v.Data, v.Shape = v.Data[:req.Dimensions], []int{req.Dimensions}
		}
		unit(v)
		if err := finite(v); err != nil {
			return err
		}
		tokens += res.plan.Rows
		entry := map[string]any{"object": "embedding", "index": i, "embedding": v.Data}
		if req.Format == "base64" {
			var b bytes.Buffer
			binary.Write(&b, binary.LittleEndian, v.Data)
			entry["embedding"] = base64.StdEncoding.EncodeToString(b.Bytes())
		}
		data = append(data, entry)
		return nil
	})
	if err != nil {
		return err
	}
	return writeJSON(w, map[string]any{
		"object": "list", "model": name, "data": data,
		"usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens},
	})
}

// embeddingInputs reads "input": a string, a list of strings, a content part, or a list of
// content parts or of lists of them (one item each).
func (s *Server) embeddingInputs(raw json.RawMessage) ([]pipeline.Item, error) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		list = []json.RawMessage{raw}
	}
	if len(list) == 0 || len(raw) == 0 {
		return nil, fieldProblem("input", "is empty")
	}
	if len(list) > s.maxItems() {
		return nil, s.tooManyItems(len(list))
	}
	items := make([]pipeline.Item, len(list))
	for i, el := range list {
		field := fmt.Sprintf("input[%d]", i)
		var text string
		var one wirePart
		var several []wirePart
		switch el = bytes.TrimSpace(el); {
		case json.Unmarshal(el, &text) == nil:
			items[i].Parts = []pipeline.Part{pipeline.TextPart(text)}
			continue
		case len(el) > 0 && el[0] == '{' && json.Unmarshal(el, &one) == nil:
			several = []wirePart{one}
		case len(el) > 0 && el[0] == '[' && json.Unmarshal(el, &several) == nil && len(several) > 0:
		default:
			return nil, fieldProblem(field, "is neither text nor content parts; lists of token ids are not taken")
		}
		for k, c := range several {
			p, err := s.part(c, fmt.Sprintf("%s[%d]", field, k))
			if err != nil {
				return nil, err
			}
			items[i].Parts = append(items[i].Parts, p)
		}
	}
	return items, nil
}

// chatRequest is OpenAI's POST /v1/chat/completions, as far as a small conditioned language
// model goes.
type chatRequest struct {
	Model       string        `json:"model"`
	Messages    []chatMessage `json:"messages"`
	Stream      bool          `json:"stream"`
	StreamOpts  streamOptions `json:"stream_options"`
	MaxTokens   int           `json:"max_tokens"`
	MaxNew      int           `json:"max_completion_tokens"` // the newer name; it wins
	Temperature *float64      `json:"temperature"`
	TopP        *float64      `json:"top_p"`
	TopK        int           `json:"top_k"`
	Seed        int64         `json:"seed"`
	Stop        stringList    `json:"stop"`

	// What clients send as a matter of course and what this server cannot do: taken while it asks
	// for nothing (see unmet).
	N               int                `json:"n"`
	Presence        float64            `json:"presence_penalty"`
	Frequency       float64            `json:"frequency_penalty"`
	LogitBias       map[string]float64 `json:"logit_bias"`
	Logprobs        bool               `json:"logprobs"`
	TopLogprobs     int                `json:"top_logprobs"`
	ResponseFormat  chatFormat         `json:"response_format"`
	Tools           []json.RawMessage  `json:"tools"`
	ToolChoice      any                `json:"tool_choice"`
	Functions       []json.RawMessage  `json:"functions"`
	FunctionCall    any                `json:"function_call"`
	Modalities      []string           `json:"modalities"`
	Audio           given              `json:"audio"`
	WebSearch       given              `json:"web_search_options"`
	ReasoningEffort string             `json:"reasoning_effort"`
	Verbosity       string             `json:"verbosity"`

	// What changes no text: taken and left alone.
	User              string          `json:"user"`
	SafetyIdentifier  string          `json:"safety_identifier"`
	PromptCacheKey    string          `json:"prompt_cache_key"`
	PromptCacheKept   string          `json:"prompt_cache_retention"`
	Prediction        json.RawMessage `json:"prediction"`
	Store             bool            `json:"store"`
	Metadata          json.RawMessage `json:"metadata"`
	ServiceTier       string          `json:"service_tier"`
	ParallelToolCalls bool            `json:"parallel_tool_calls"`
}

// given is whether a field says anything; what, is not kept.
type given bool

// UnmarshalJSON takes anything.
func (g *given) UnmarshalJSON(b []byte) error {
	*g = string(b) != "null"
	return nil
}

// chatFormat is what the text should be; only the type "text" is had.
type chatFormat struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"json_schema"`
}

// streamOptions says what a stream tells besides the text.
type streamOptions struct {
	IncludeUsage       bool `json:"include_usage"`       // a last piece with the number of tokens
	IncludeObfuscation bool `json:"include_obfuscation"` // padding against eavesdroppers; none is sent
}

// chatMessage is one message. An answer of the server, sent back, has the fields after the name.
type chatMessage struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
	Name    string          `json:"name"`

	Refusal      *string           `json:"refusal"`
	Annotations  []json.RawMessage `json:"annotations"`
	Audio        given             `json:"audio"`
	ToolCalls    []json.RawMessage `json:"tool_calls"`
	ToolCallID   *string           `json:"tool_call_id"`
	FunctionCall given             `json:"function_call"`
}

// chatRoles are whose messages a prompt is made of; tools have none here.
var chatRoles = []string{"system", "developer", "user", "assistant"}

// unmet names the first field that asks for what the server's language models do not do. Leaving
// it out unsaid would answer another question.
func (c *chatRequest) unmet() error {
	type ask struct {
		field string
		made  bool
	}
	none := func(choice any) bool { return choice == nil || choice == "none" || choice == "auto" }
	asks := []ask{
		{"n", c.N < 0 || c.N > 1},
		{"presence_penalty", c.Presence != 0},
		{"frequency_penalty", c.Frequency != 0},
		{"logit_bias", len(c.LogitBias) > 0},
		{"logprobs", c.Logprobs},
		{"top_logprobs", c.TopLogprobs != 0},
		{"response_format", c.ResponseFormat.Type != "" && c.ResponseFormat.Type != "text"},
		{"tools", len(c.Tools) > 0},
		{"tool_choice", !none(c.ToolChoice)},
		{"functions", len(c.Functions) > 0},
		{"function_call", !none(c.FunctionCall)},
		{"modalities", len(c.Modalities) > 1 || len(c.Modalities) == 1 && c.Modalities[0] != "text"},
		{"audio", bool(c.Audio)},
		{"web_search_options", bool(c.WebSearch)},
		{"reasoning_effort", c.ReasoningEffort != "" && c.ReasoningEffort != "none"},
		{"verbosity", c.Verbosity != "" && c.Verbosity != "medium"},
	}
	for i, m := range c.Messages {
		at := func(field string) string { return fmt.Sprintf("messages[%d].%s", i, field) }
		asks = append(asks,
			ask{at("role"), !slices.Contains(chatRoles, m.Role)},
			ask{at("tool_calls"), len(m.ToolCalls) > 0},
			ask{at("tool_call_id"), m.ToolCallID != nil},
			ask{at("function_call"), bool(m.FunctionCall)},
			ask{at("audio"), bool(m.Audio)})
	}
	for _, a := range asks {
		if a.made {
			return fieldProblem(a.field, "asks for what the language models of this server do not do")
		}
	}
	return nil
}

// imageMark stands in a prompt's text where a medium goes.
const imageMark = "<image>"

// prompt turns messages into text with media between.
func (s *Server) prompt(c *chatRequest) (pipeline.Prompt, error) {
	var p pipeline.Prompt
	var text strings.Builder
	for i, m := range c.Messages {
		var whole string
		if json.Unmarshal(m.Content, &whole) == nil {
			text.WriteString(strings.ReplaceAll(whole, imageMark, ""))
			continue
		}
		var parts []wirePart
		if err := json.Unmarshal(m.Content, &parts); err != nil {
			return p, fieldProblem(fmt.Sprintf("messages[%d].content", i), "is neither text nor content parts")
		}
		for k, part := range parts {
			if part.Text != nil {
				text.WriteString(strings.ReplaceAll(*part.Text, imageMark, ""))
				continue
			}
			pp, err := s.part(part, fmt.Sprintf("messages[%d].content[%d]", i, k))
			if err != nil {
				return p, err
			}
			p.Parts = append(p.Parts, pp)
			text.WriteString(imageMark)
		}
	}
	p.Text = text.String()
	if p.Text == "" {
		return p, fieldProblem("messages", "hold no text and no media")
	}
	return p, nil
}

// chat answers OpenAI's chat route with the loaded conditioned language model.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) error {
	var req chatRequest
	if err := decodeJSON(r.Context(), r.Body, &req); err != nil {
		return err
	}
	if err := req.unmet(); err != nil {
		return err
	}
	p, err := s.prompt(&req)
	if err != nil {
		return err
	}
	opt := pipeline.GenerateOptions{MaxTokens: or(req.MaxNew, req.MaxTokens), Seed: uint64(req.Seed), Stop: req.Stop, TopK: req.TopK, Temperature: 1}
	if req.Temperature != nil {
		opt.Temperature = *req.Temperature
	}
	if req.TopP != nil {
		opt.TopP = *req.TopP
	}
	id := "chatcmpl-" + requestIDOf(r.Context())
	begun, first := time.Now().Unix(), true
	chunk := func(model string, delta any, reason any) map[string]any {
		return map[string]any{
			"id": id, "object": "chat.completion.chunk", "created": begun, "model": model,
			"choices": []any{map[string]any{"index": 0, "delta": delta, "finish_reason": reason}},
		}
	}
	usage := func(g *pipeline.Generation) map[string]int {
		return map[string]int{"prompt_tokens": g.PromptTokens, "completion_tokens": g.Tokens, "total_tokens": g.PromptTokens + g.Tokens}
	}
	length := "max_tokens"
	if req.MaxNew != 0 {
		length = "max_completion_tokens"
	}
	return s.generating(w, r, req.Model, p, opt, generationWriter{
		stream: req.Stream, length: length,
		after: func(model string, g *pipeline.Generation) any {
			if !req.StreamOpts.IncludeUsage {
				return nil
			}
			end := chunk(model, nil, nil)
			end["choices"], end["usage"] = []any{}, usage(g)
			return end
		},
		piece: func(model, text string) any {
			delta := map[string]string{"content": text}
			if first { // clients join the deltas of a field, so the role comes once
				delta["role"], first = "assistant", false
			}
			return chunk(model, delta, nil)
		},
		last: func(model string, g *pipeline.Generation) any {
			delta := map[string]string{}
			if first { // no text at all
				delta = map[string]string{"role": "assistant", "content": ""}
			}
			return chunk(model, delta, g.Stop)
		},
		whole: func(model string, g *pipeline.Generation) any {
			return map[string]any{
				"id": id, "object": "chat.completion", "created": begun, "model": model,
				"choices": []any{map[string]any{
					"index": 0, "finish_reason": g.Stop,
					"message": map[string]string{"role": "assistant", "content": g.Text},
				}},
				"usage": usage(g),
			}
		},
	})
}

// generateRequest is the body of POST /v1/generate.
type generateRequest struct {
	Model       string     `json:"model"`
	Prompt      string     `json:"prompt"`
	Content     []wirePart `json:"content"` // media, in the order of "<image>" marks in the prompt
	Stream      *bool      `json:"stream"`  // absent: as Accept says; server-sent events for */*
	MaxTokens   int        `json:"max_tokens"`
	Temperature float64    `json:"temperature"`
	TopK        int        `json:"top_k"`
	TopP        float64    `json:"top_p"`
	Seed        uint64     `json:"seed"`
	Stop        stringList `json:"stop"`
}

// generationKinds are the forms of a generation: as it comes, or whole. The first is the default.
var generationKinds = []string{"text/event-stream", "application/json"}

// generate answers POST /v1/generate: text as server-sent events, or whole.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) error {
	var req generateRequest
	if err := decodeJSON(r.Context(), r.Body, &req); err != nil {
		return err
	}
	var stream bool
	if req.Stream != nil {
		stream = *req.Stream
	} else {
		kind, err := preferred(r, generationKinds)
		if err != nil {
			return err
		}
		stream = kind == 0
	}
	p := pipeline.Prompt{Text: req.Prompt}
	for k, c := range req.Content {
		part, err := s.part(c, fmt.Sprintf("content[%d]", k))
		if err != nil {
			return err
		}
		p.Parts = append(p.Parts, part)
	}
	opt := pipeline.GenerateOptions{
		MaxTokens: req.MaxTokens, Temperature: req.Temperature, TopK: req.TopK, TopP: req.TopP, Seed: req.Seed, Stop: req.Stop,
	}
	return s.generating(w, r, req.Model, p, opt, generationWriter{
		stream: stream, length: "max_tokens",
		piece: func(_, text string) any { return map[string]string{"text": text} },
		last:  func(_ string, g *pipeline.Generation) any { return g },
		whole: func(_ string, g *pipeline.Generation) any { return g },
	})
}

// generationWriter words a generation for one dialect.
type generationWriter struct {
	stream bool
	length string // the field that bounds the tokens
	piece  func(model, text string) any
	last   func(model string, g *pipeline.Generation) any
	after  func(model string, g *pipeline.Generation) any // a piece after the last; nil func or value: none
	whole  func(model string, g *pipeline.Generation) any
}

// generating runs a conditioned language model and sends what it says.
func (s *Server) generating(w http.ResponseWriter, r *http.Request, model string, p pipeline.Prompt, opt pipeline.GenerateOptions, out generationWriter) (err error) {
	switch {
	case opt.Temperature < 0:
		return fieldProblem("temperature", fmt.Sprintf("is %g; want 0 or more", opt.Temperature))
	case opt.TopP < 0 || opt.TopP > 1:
		return fieldProblem("top_p", fmt.Sprintf("is %g; want 0 to 1", opt.TopP))
	case opt.TopK < 0:
		return fieldProblem("top_k", fmt.Sprintf("is %d; want 0 or more", opt.TopK))
	case opt.MaxTokens < 0 || opt.MaxTokens > maxGenerated:
		return fieldProblem(out.length, fmt.Sprintf("is %d; want 0 to %d", opt.MaxTokens, maxGenerated))
	}
	name, err := s.model(model)
	if err != nil {
		return err
	}
	if err := s.fetchAll(r.Context(), pointers(p.Parts)); err != nil {
		return err
	}
	m, release, err := s.Store.Acquire(r.Context(), name)
	if err != nil {
		return err
	}
	defer release()
	identify(w, m)
	g, ok := m.(pipeline.Generator)
	if !ok {
		return fmt.Errorf("%w: %s has no language model", pipeline.ErrNoTask, name)
	}
	var all pipeline.Plan
	for _, part := range p.Parts {
		plan, err := m.Plan(r.Context(), pipeline.Item{Parts: []pipeline.Part{part}})
		if err != nil {
			return err
		}
		all.FLOPs += plan.FLOPs
		all.Decoding += plan.Decoding
		all.DecodedBytes += plan.DecodedBytes
	}
	drawn := 0
	cost := func(tokens int) float64 {
		return turnCost(all) + textCost(m.Info().Parameters, len(p.Text)/bytesPerToken, tokens)
	}
	place := s.queue.place(r.Context())
	leave, err := place.Enter(r.Context(), cost(opt.Limit()))
	if err != nil {
		return err
	}
	defer leave()
	defer func() {
		if place.Settle(cost(drawn)); drawn == 0 && err != nil {
			place.Fail()
		}
	}()
	free, err := s.enterRoom(r.Context(), new(workRequest), all)
	if err != nil {
		return err
	}
	defer free()
	ctx := s.moving(r.Context())
	if !out.stream {
		res, err := g.Generate(ctx, p, opt, func(string) error {
			s.alive()
			drawn++
			return nil
		})
		if err != nil {
			return err
		}
		return writeJSON(w, out.whole(name, res))
	}
	ev := events{w: w}
	res, err := g.Generate(ctx, p, opt, func(text string) error {
		s.alive()
		drawn++
		return ev.send(out.piece(name, text))
	})
	if err != nil {
		return err
	}
	if err := ev.send(out.last(name, res)); err != nil {
		return err
	}
	if out.after != nil {
		if v := out.after(name, res); v != nil {
			if err := ev.send(v); err != nil {
				return err
			}
		}
	}
	return ev.done()
}

// maxGenerated bounds the tokens of one generation.
const maxGenerated = 4096

// events writes server-sent events.
type events struct{ w http.ResponseWriter }

func (e events) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	e.w.Header().Set("Content-Type", "text/event-stream")
	e.w.Header().Set("Cache-Control", "no-store")
	if _, err := fmt.Fprintf(e.w, "data: %s\n\n", b); err != nil {
		return err
	}
	return http.NewResponseController(e.w).Flush()
}

func (e events) done() error {
	_, err := fmt.Fprint(e.w, "data: [DONE]\n\n")
	return err
}

func requestIDOf(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
