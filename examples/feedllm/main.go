// Command feedllm encodes a picture and feeds the result to three kinds of language model:
//
//	(a) the model's own, inside this process: text on standard output
//	(b) a server that speaks vLLM's chat API: the soft tokens as a prompt_embeds part
//	(c) llama.cpp: the float32 file that llama_batch.embd points at
//
//	feedllm --model idefics2-8b --image cat.jpg --prompt "<image>What is this?" \
//	        --vllm http://localhost:8000 --target Mistral-7B-v0.1 --embd cat.embd
//
// (b) and (c) take soft tokens only: with a model whose latents are cross-attention memory
// (OpenFlamingo, Idefics v1) they are refused, and the reason is printed.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/mmserve/mmserve/internal/feed"
	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/weights"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "feedllm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("feedllm", flag.ContinueOnError)
	dir := flags.String("model", "", "model directory")
	path := flags.String("image", "", "picture to encode")
	prompt := flags.String("prompt", "<image>Describe this image.", "prompt; <image> stands for the picture")
	url := flags.String("vllm", "", "base URL of a vLLM-like server; empty: none")
	target := flags.String("target", "", "language model of that server, checked against the latents")
	file := flags.String("embd", "", "file for llama.cpp; empty: none")
	random := flags.Bool("random", false, "random weights instead of the directory's, to try the program")
	if err := flags.Parse(args); err != nil {
		return err
	}
	m, err := pipeline.Open(ctx, *dir, pipeline.Options{Random: *random})
	if err != nil {
		return err
	}
	data, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	picture := pipeline.Part{Input: media.Bytes(filepath.Base(*path), data)}

	if err := own(ctx, m, *prompt, picture, out); err != nil {
		return err
	}
	latents, err := encode(ctx, m, picture)
	if err != nil {
		return err
	}
	to := feed.Target{Name: *target}
	to.Hidden, _ = feed.HiddenSize(*target)
	if *url != "" {
		if err := vllm(ctx, *url, *prompt, latents, to, out); err != nil {
			return err
		}
	}
	if *file != "" {
		return llamaCpp(*file, latents, to, out)
	}
	return nil
}

// own lets the model's language model speak.
func own(ctx context.Context, m pipeline.Model, prompt string, picture pipeline.Part, out io.Writer) error {
	g, ok := m.(pipeline.Generator)
	if !ok {
		return nil
	}
	fmt.Fprint(out, "own: ")
	_, err := g.Generate(ctx, pipeline.Prompt{Text: prompt, Parts: []pipeline.Part{picture}}, pipeline.GenerateOptions{MaxTokens: 32},
		func(text string) error { _, err := io.WriteString(out, text); return err })
	fmt.Fprintln(out)
	return err
}

// encode makes latents with what a consumer must know of them.
func encode(ctx context.Context, m pipeline.Model, picture pipeline.Part) (feed.Latents, error) {
	enc, err := m.Encode(ctx, pipeline.Item{Parts: []pipeline.Part{picture}}, pipeline.EncodeOptions{Outputs: []string{pipeline.OutputSoftTokens}})
	if err != nil {
		return feed.Latents{}, err
	}
	info, x := m.Info(), enc.SoftTokens
	if x.Data == nil {
		return feed.Latents{}, fmt.Errorf("%s has no resampler", info.Name)
	}
	return feed.Latents{Data: x.Reshape(1, x.Dim(0), x.Dim(1)), Kind: feed.Kind(info.SoftTokenKind), Model: info.Name}, nil
}

// vllm asks a server about the picture: its soft tokens stand next to the text.
func vllm(ctx context.Context, url, prompt string, l feed.Latents, to feed.Target, out io.Writer) error {
	part, err := feed.ChatPart(l, to, weights.F32)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"model": to.Name, "max_tokens": 32,
		"messages": []any{map[string]any{"role": "user", "content": []any{
			json.RawMessage(part), map[string]string{"type": "text", "text": prompt},
		}}},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Choices []struct {
			Message struct {
				Content string `json:"content"`
			} `json:"message"`
		} `json:"choices"`
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return err
	}
	for _, c := range answer.Choices {
		fmt.Fprintln(out, "vllm:", c.Message.Content)
	}
	return nil
}

// llamaCpp writes rows that llama_decode takes with token = NULL.
func llamaCpp(path string, l feed.Latents, to feed.Target, out io.Writer) error {
	var b bytes.Buffer
	if err := feed.LlamaCpp(&b, l, to); err != nil {
		return err
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "llama.cpp: %d rows of %d float32 in %s\n", l.Data.Dim(1), l.Data.Dim(2), path)
	return err
}
