package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/mmserve/mmserve/api"
)

// OpenAI's clients send fields that ask for nothing; those are taken. What asks for something the
// language models do not do is refused by its name.
func TestChatFieldsOfOpenAI(t *testing.T) {
	s := newSite(t, &api.Server{})
	ask := func(more string) answer {
		return s.post("/v1/chat/completions", `{"max_tokens":2,"temperature":0,"messages":[{"role":"user","content":"a"}],`+more+`}`)
	}
	want := s.want(ask(`"n":1`), 200).json(t)["choices"]
	for _, neutral := range []string{
		`"n":null`, `"presence_penalty":0`, `"frequency_penalty":0.0`, `"logit_bias":{}`, `"logit_bias":null`, `"logprobs":false`, `"top_logprobs":null`,
		`"response_format":{"type":"text"}`, `"tools":[]`, `"tool_choice":"auto"`, `"tool_choice":"none"`, `"functions":[]`, `"function_call":"none"`,
		`"parallel_tool_calls":true`, `"modalities":["text"]`, `"audio":null`, `"web_search_options":null`, `"prediction":{"type":"content","content":"x"}`,
		`"store":true`, `"metadata":{"a":"b"}`, `"user":"u"`, `"safety_identifier":"u"`, `"prompt_cache_key":"k"`, `"prompt_cache_retention":"24h"`,
		`"service_tier":"auto"`, `"reasoning_effort":"none"`, `"verbosity":"medium"`, `"stop":null`, `"seed":-1`, `"top_p":1`,
		`"stream":false,"stream_options":{"include_usage":false,"include_obfuscation":false}`, `"max_completion_tokens":null`,
	} {
		if got := s.want(ask(neutral), 200).json(t)["choices"]; jsonOf(t, got) != jsonOf(t, want) {
			t.Errorf("%s: %v, without it %v", neutral, got, want)
		}
	}
	for field, value := range map[string]string{
		"n": `2`, "presence_penalty": `1`, "frequency_penalty": `-0.5`, "logit_bias": `{"5":10}`, "logprobs": `true`, "top_logprobs": `3`,
		"response_format": `{"type":"json_schema","json_schema":{}}`, "tools": `[{"type":"function"}]`, "tool_choice": `{"type":"function"}`,
		"functions": `[{"name":"f"}]`, "function_call": `{"name":"f"}`, "modalities": `["text","audio"]`, "audio": `{"voice":"x"}`,
		"web_search_options": `{}`, "reasoning_effort": `"high"`, "verbosity": `"low"`, "surprise": `1`,
		"temperature": `-1`, "top_p": `1.5`, "top_k": `-1`, "max_completion_tokens": `100000`, "seed": `1.5`, "stop": `[3]`, "model": `7`,
	} {
		e := s.want(ask(`"`+field+`":`+value), 400).json(t)["error"].(map[string]any)
		if e["param"] != field || !strings.HasPrefix(e["message"].(string), field+" ") {
			t.Errorf("%s: %v", field, e)
		}
	}
	// An answer goes back among the messages of the next request.
	history := `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","refusal":null,"annotations":[],"audio":null,"tool_calls":null,"function_call":null},{"role":"user","content":"c"}],"max_tokens":1}`
	s.want(s.post("/v1/chat/completions", history), 200)
	for field, message := range map[string]string{
		"messages[1].role":       `{"role":"tool","content":"x"}`,
		"messages[1].tool_calls": `{"role":"assistant","content":null,"tool_calls":[{}]}`,
	} {
		e := s.want(s.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"a"},`+message+`]}`), 400).json(t)["error"].(map[string]any)
		if e["param"] != field {
			t.Errorf("%s: %v", field, e)
		}
	}
}

// Clients join the deltas of a stream field by field, so the role comes once.
func TestChatStreamSaysTheRoleOnce(t *testing.T) {
	s := newSite(t, &api.Server{})
	chat := `"max_tokens":3,"temperature":0,"messages":[{"role":"user","content":"a"}]}`
	said := s.want(s.post("/v1/chat/completions", `{`+chat), 200).json(t)["choices"].([]any)[0].(map[string]any)["message"].(map[string]any)["content"].(string)
	for _, stop := range []string{"", said[:1]} { // the second leaves no text at all
		a := s.want(s.post("/v1/chat/completions", `{"stream":true,"stop":[`+jsonOf(t, stop)+`],`+chat), 200)
		if n := strings.Count(string(a.body), `"role":"assistant"`); n != 1 {
			t.Errorf("stop %q: the role comes %d times:\n%s", stop, n, a.body)
		}
		if first, _, _ := strings.Cut(string(a.body), "\n"); !strings.Contains(first, `"role"`) {
			t.Errorf("stop %q: the first piece lacks it: %s", stop, first)
		}
	}
}

func jsonOf(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
