package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client calls one server. The zero value calls http://127.0.0.1:8080 without a key. It is
// safe for concurrent use.
type Client struct {
	URL     string       // of the server; empty means http://127.0.0.1:8080
	Key     string       // API key; empty sends none
	HTTP    *http.Client // nil means http.DefaultClient
	Retries int          // times a 429 or 503 is asked again
	MaxBody int64        // most bytes of an answer; zero means 1 GiB
}

// Error is a refusal of the server: a whole request's, or one item's.
type Error struct {
	Status     int     `json:"status"` // of HTTP
	Code       string  `json:"code"`   // stable; docs/errors.md lists them
	Title      string  `json:"title"`  // what the code means
	Detail     string  `json:"detail"` // what was wrong with this request
	Field      string  `json:"field"`  // of the request, where one is at fault
	Limit      float64 `json:"limit"`  // that was passed, in the unit of Detail
	Actual     float64 `json:"actual"`
	RetryAfter int64   `json:"retry_after_ms"`
	RequestID  string  `json:"request_id"` // of the server's log
}

// Error implements error.
func (e *Error) Error() string {
	text := fmt.Sprintf("mmserve: %d %s: %s", e.Status, e.Code, e.Detail)
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

// Encode turns items into latents and what Request.Output names.
func (c *Client) Encode(ctx context.Context, r Request) (*Document, error) {
	return c.work(ctx, "/v1/encode", r)
}

// Predict runs the model's task on items.
func (c *Client) Predict(ctx context.Context, r Request) (*Document, error) {
	return c.work(ctx, "/v1/predict", r)
}

// Decode asks a model's decoder about latents that Encode gave earlier: what Predict would answer of
// their media, or answers to queries of one's own.
func (c *Client) Decode(ctx context.Context, r DecodeRequest) (*Document, error) {
	return c.work(ctx, "/v1/decode", r)
}

// Plan says what items would cost and how long the server's queue would take; nothing is decoded or run.
func (c *Client) Plan(ctx context.Context, r Request) (*Document, error) {
	return c.work(ctx, "/v1/plan", r)
}

func (c *Client) work(ctx context.Context, path string, r any) (*Document, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	var doc Document
	return &doc, c.call(ctx, "POST", path, body, &doc)
}

// Generate continues a prompt about media and returns the whole text. For text as it comes, ask
// /v1/generate or /v1/chat/completions with any client of server-sent events.
func (c *Client) Generate(ctx context.Context, p Prompt) (*Generation, error) {
	body, err := json.Marshal(struct {
		Prompt
		Stream bool `json:"stream"`
	}{p, false})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	g := new(Generation)
	return g, c.call(ctx, "POST", "/v1/generate", body, g)
}

// Models lists the server's models.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	var list struct{ Data []Model }
	return list.Data, c.call(ctx, "GET", "/v1/models", nil, &list)
}

// Ready reports whether the server is ready to serve.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, "GET", "/readyz", nil, new(struct{}))
}

// Do sends one request as it is and returns the answer's bytes: for formats other than JSON,
// and for media sent raw. Options become the query.
func (c *Client) Do(ctx context.Context, path, contentType string, body []byte, options url.Values) ([]byte, error) {
	if len(options) > 0 {
		path += "?" + options.Encode()
	}
	return c.send(ctx, "POST", path, contentType, body)
}

func (c *Client) call(ctx context.Context, method, path string, body []byte, answer any) error {
	b, err := c.send(ctx, method, path, "application/json", body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("client: %s: %w", path, err)
	}
	return nil
}

// send asks, and asks again when told to.
func (c *Client) send(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	for try := 0; ; try++ {
		b, err := c.once(ctx, method, path, contentType, body)
		var e *Error
		again := errors.As(err, &e) && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable)
		if !again || try >= c.Retries {
			return b, err
		}
		t := time.NewTimer(max(time.Duration(e.RetryAfter)*time.Millisecond, 10*time.Millisecond))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

func (c *Client) once(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	base := c.URL
	if base == "" {
		base = "http://127.0.0.1:8080"
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	hc := c.HTTP
	if hc == nil {
		hc = http.DefaultClient
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	defer resp.Body.Close()
	limit := c.MaxBody
	if limit == 0 {
		limit = 1 << 30
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("client: %s: %w", path, err)
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("client: %s: the answer passes %d bytes", path, limit)
	case resp.StatusCode >= 300:
		e := &Error{Detail: strings.ToValidUTF8(string(b[:min(len(b), 200)]), "?")}
		json.Unmarshal(b, e) // an answer of another kind, a proxy's say, keeps its text
		e.Status = resp.StatusCode
		return nil, e
	}
	return b, nil
}
