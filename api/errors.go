package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/mmserve/mmserve/modality/media"
	"github.com/mmserve/mmserve/pipeline"
)

// Problem is an error as a client sees it (RFC 9457 on native routes). Detail is safe to
// show: it names things of the request, never of the server.
type Problem struct {
	Type       string  `json:"type"`
	Title      string  `json:"title"`
	Status     int     `json:"status"`
	Detail     string  `json:"detail,omitempty"`
	Instance   string  `json:"instance,omitempty"`
	Code       string  `json:"code"`
	Field      string  `json:"field,omitempty"`
	Item       *int    `json:"item,omitempty"`
	Limit      float64 `json:"limit,omitempty"`
	Actual     float64 `json:"actual,omitempty"`
	RetryAfter int64   `json:"retry_after_ms,omitempty"`
	RequestID  string  `json:"request_id,omitempty"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// problemBase prefixes the "type" of a problem; the rest is its code.
const problemBase = "https://github.com/mmserve/mmserve/blob/main/docs/errors.md#"

// Codes of problems that are not media codes.
const (
	codeBadRequest   = "bad_request"
	codeUnauthorized = "unauthorized"
	codeForbidden    = "forbidden"
	codeNotFound     = "not_found"
	codeNoTask       = "no_such_task"
	codeBadInput     = "input_mismatch"
	codeBodyTooLarge = "body_too_large"
	codeMediaType    = "unsupported_media_type"
	codeSlow         = "client_too_slow"
	codeSaturated    = "saturated"
	codeQuota        = "quota_exceeded"
	codeDraining     = "draining"
	codeDeadline     = "deadline_exceeded"
	codeGone         = "client_gone"
	codeNotFinite    = "not_finite"
	codeInternal     = "internal"

	codeMethod        = "method_not_allowed"
	codeNotAcceptable = "not_acceptable"
	codeRemoteRefused = "remote_refused"
	codeRemoteFailed  = "remote_failed"
)

// titles is the one list of problem codes: status and title of each.
var titles = map[string]struct {
	status int
	title  string
}{
	codeBadRequest:   {http.StatusBadRequest, "the request cannot be read"},
	codeUnauthorized: {http.StatusUnauthorized, "a valid API key is needed"},
	codeForbidden:    {http.StatusForbidden, "this is not allowed"},
	codeNotFound:     {http.StatusNotFound, "no such thing"},
	codeNoTask:       {http.StatusUnprocessableEntity, "the model does not do this"},
	codeBadInput:     {http.StatusUnprocessableEntity, "the input does not fit the model"},
	codeBodyTooLarge: {http.StatusRequestEntityTooLarge, "the body is too large"},
	codeMediaType:    {http.StatusUnsupportedMediaType, "the content type is not taken here"},
	codeSlow:         {http.StatusRequestTimeout, "the request came too slowly"},
	codeSaturated:    {http.StatusServiceUnavailable, "the server is saturated"},
	codeQuota:        {http.StatusTooManyRequests, "the key's quota is used up"},
	codeDraining:     {http.StatusServiceUnavailable, "the server is shutting down or loading"},
	codeDeadline:     {http.StatusGatewayTimeout, "the deadline passed"},
	codeGone:         {499, "the client left"},
	codeNotFinite:    {http.StatusInternalServerError, "the result was not finite"},
	codeInternal:     {http.StatusInternalServerError, "internal error"},

	codeMethod:        {http.StatusMethodNotAllowed, "the path takes another method"},
	codeNotAcceptable: {http.StatusNotAcceptable, "no format of the answer is accepted"},
	codeRemoteRefused: {http.StatusBadRequest, "the URL is not one this server fetches"},
	codeRemoteFailed:  {http.StatusFailedDependency, "the remote medium could not be fetched"},

	string(media.Unsupported):   {http.StatusUnsupportedMediaType, "the medium is not supported"},
	string(media.Malformed):     {http.StatusUnprocessableEntity, "the medium is malformed"},
	string(media.Truncated):     {http.StatusUnprocessableEntity, "the medium is cut off"},
	string(media.TooLarge):      {http.StatusRequestEntityTooLarge, "the medium passes a limit"},
	string(media.TooSmall):      {http.StatusUnprocessableEntity, "the medium is too small for the model"},
	string(media.Empty):         {http.StatusUnprocessableEntity, "the medium is empty"},
	string(media.Mismatch):      {http.StatusUnprocessableEntity, "the medium is not what it was declared as"},
	string(media.BadOptions):    {http.StatusBadRequest, "the adapter's options do not fit"},
	string(media.NotReplayable): {http.StatusUnprocessableEntity, "the medium can be read only once"},
	string(media.TimedOut):      {http.StatusUnprocessableEntity, "the medium took too long to decode"},
	string(media.Canceled):      {499, "the client left"},
	string(media.Unreadable):    {http.StatusBadRequest, "the medium could not be read"},
	string(media.PluginFailed):  {http.StatusFailedDependency, "the plug-in of this modality failed"},
}

// problem makes a Problem of a code with a sentence for the client.
func problem(code, detail string) *Problem {
	t, ok := titles[code]
	if !ok {
		t = titles[codeInternal]
	}
	return &Problem{Type: problemBase + code, Title: t.title, Status: t.status, Code: code, Detail: detail}
}

// asProblem is the one place where errors become what clients see.
func asProblem(ctx context.Context, err error) *Problem {
	var p *Problem
	var m *media.Error
	var full *Saturated
	var quota *overQuota
	var tooLarge *http.MaxBytesError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &p):
		copied := *p
		return &copied
	case errors.As(err, &full):
		p = full.problem()
	case errors.As(err, &quota):
		p = problem(codeQuota, quota.Error())
		p.RetryAfter = quota.wait.Milliseconds()
	case errors.As(err, &tooLarge):
		p = problem(codeBodyTooLarge, "the body passes the server's limit")
		p.Limit = float64(tooLarge.Limit)
	case errors.As(err, &m):
		if m.Code == media.TimedOut && ctx.Err() != nil {
			return problem(codeDeadline, "the deadline passed while the input was decoded")
		}
		p = problem(string(m.Code), m.Error())
		p.Limit, p.Actual = m.Limit, m.Actual
	case errors.Is(err, context.DeadlineExceeded):
		p = problem(codeDeadline, "the work did not end before the deadline")
	case errors.Is(err, context.Canceled):
		p = problem(codeGone, "the client left before the answer")
	case errors.Is(err, pipeline.ErrNoModel):
		p = problem(codeNotFound, err.Error())
	case errors.Is(err, pipeline.ErrBudget):
		p = problem(codeDraining, err.Error())
		p.RetryAfter = 1000
	case errors.Is(err, pipeline.ErrNoTask):
		p = problem(codeNoTask, err.Error())
	case errors.Is(err, pipeline.ErrInput):
		p = problem(codeBadInput, err.Error())
	case errors.Is(err, pipeline.ErrNotFinite):
		p = problem(codeNotFinite, "the model's result was not finite and is withheld")
	case errors.As(err, &syntax):
		p = problem(codeBadRequest, fmt.Sprintf("the body is no JSON: %v, at byte %d", syntax, syntax.Offset))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		p = problem(codeBadRequest, "the body is empty, or ends too early")
	default:
		p = problem(codeInternal, "something went wrong; the request id names it in the log")
	}
	return p
}

// dialect is how a family of routes words its errors.
type dialect int

const (
	native dialect = iota // RFC 9457 problem+json
	openAI                // {"error":{message,type,code,param}}
	oip                   // {"error":"…"}
	shared                // native, with openAI's "error" in it: both kinds of clients ask there
)

// write sends the problem in a dialect.
func (p *Problem) write(w http.ResponseWriter, d dialect) {
	h := w.Header()
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(max(1, int64(math.Ceil(float64(p.RetryAfter)/1000))), 10))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="mmserve"`)
	}
	var body any = p
	h.Set("Content-Type", "application/json")
	switch d {
	case openAI:
		body = map[string]any{"error": p.openAI()}
	case oip:
		body = map[string]string{"error": p.Code + ": " + p.Detail}
	case shared:
		h.Set("Content-Type", "application/problem+json")
		body = struct {
			*Problem
			Error map[string]any `json:"error"`
		}{p, p.openAI()}
	default:
		h.Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(body)
}

// openAI is the problem as OpenAI's clients read it.
func (p *Problem) openAI() map[string]any {
	kind := "invalid_request_error"
	if p.Status >= 500 {
		kind = "server_error"
	}
	return map[string]any{"message": p.Detail, "type": kind, "code": p.Code, "param": nullable(p.Field)}
}

func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// logLevel is how loudly a problem is logged: ours are errors, the client's are not.
func (p *Problem) logLevel() slog.Level {
	switch {
	case p.Status == http.StatusServiceUnavailable || p.Status == http.StatusGatewayTimeout:
		return slog.LevelWarn
	case p.Status >= 500:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// overQuota says that a key has used up what it may do for now.
type overQuota struct{ wait time.Duration }

func (q *overQuota) Error() string { return "the key's rate is used up" }
