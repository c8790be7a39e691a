package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// format is one way to send results. Either a document of all items, or lines as they come.
type format struct {
	name      string
	mediaType string
	document  func(w io.Writer, s *Server, j *job, results []*result) error // nil: ndjson
	single    bool                                                          // holds one tensor of one item
}

// formats is the table of answers; the first is the default.
var formats = []format{
	{name: "json", mediaType: "application/json", document: writeDocument},
	{name: "ndjson", mediaType: "application/x-ndjson"},
	{name: "npy", mediaType: "application/x-npy", single: true, document: tensorDocument(weights.WriteNPY)},
	{name: "safetensors", mediaType: "application/vnd.safetensors", document: safetensorsDocument},
	{name: "pt", mediaType: "application/vnd.pytorch", single: true, document: tensorDocument(weights.WriteTorch)},
	{name: "raw", mediaType: "application/octet-stream", single: true, document: rawDocument},
	{name: "oip", mediaType: "application/octet-stream", document: oipDocument}, // by name alone: as a type it is raw
	{name: "vllm", mediaType: "application/vnd.vllm+json", document: feedDocument("vllm_prompt_embeds")},
}

// negotiate picks the format: the request's own word, else the type that Accept prefers.
func negotiate(r *http.Request, word string) (format, error) {
	if word != "" {
		for _, f := range formats {
			if f.name == word || f.mediaType == word {
				return f, nil
			}
		}
		return format{}, fieldProblem("format", "is unknown: "+quote(word))
	}
	kinds := make([]string, len(formats))
	for i, f := range formats {
		kinds[i] = f.mediaType
	}
	i, err := preferred(r, kinds)
	return formats[i], err
}

// preferred is the index of the media type that Accept prefers, 0 without one: the highest q, and of
// equals what Accept names first.
func preferred(r *http.Request, kinds []string) (int, error) {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return 0, nil
	}
	best, found := 0.0, 0
	for accepted := range strings.SplitSeq(accept, ",") {
		pattern, params, err := mime.ParseMediaType(accepted)
		if err != nil {
			continue
		}
		q := 1.0
		if v, ok := params["q"]; ok {
			q, _ = strconv.ParseFloat(v, 64)
		}
		if i := slices.IndexFunc(kinds, func(kind string) bool { return accepts(pattern, kind) }); i >= 0 && q > best {
			best, found = q, i
		}
	}
	if best == 0 {
		return 0, problem(codeNotAcceptable, "Accept names none of the formats of this answer; see /openapi.json")
	}
	return found, nil
}

// accepts reports whether a range of Accept has a media type. Who names our errors takes JSON.
func accepts(pattern, kind string) bool {
	family, any := strings.CutSuffix(pattern, "/*")
	return pattern == kind || any && (family == "*" || strings.HasPrefix(kind, family+"/")) ||
		pattern == "application/problem+json" && kind == "application/json"
}

// responder gathers or streams the results of a request.
type responder struct {
	s       *Server
	w       http.ResponseWriter
	ctx     context.Context
	j       *job
	f       format
	results []*result
}

func (s *Server) responder(w http.ResponseWriter, r *http.Request, j *job) (*responder, error) {
	f, err := negotiate(r, j.req.Format)
	if err != nil {
		return nil, err
	}
	if f.single && len(j.items) > 1 {
		return nil, fieldProblem("format", f.name+" holds one item; "+strconv.Itoa(len(j.items))+" were sent")
	}
	if _, err := dtypeOf(j.req.DType); err != nil {
		return nil, err
	}
	switch j.req.Encoding {
	case "", "base64", "float":
	default:
		return nil, fieldProblem("encoding", "wants base64 or float, not "+quote(j.req.Encoding))
	}
	identify(w, j.model)
	return &responder{s: s, w: w, ctx: r.Context(), j: j, f: f}, nil
}

// dtypeOf is the type tensors are sent in.
func dtypeOf(name string) (weights.DType, error) {
	switch name {
	case "", "f32", "float32":
		return weights.F32, nil
	case "f16", "float16":
		return weights.F16, nil
	case "bf16", "bfloat16":
		return weights.BF16, nil
	}
	return "", fieldProblem("dtype", "wants f32, f16 or bf16, not "+quote(name))
}

// add takes the result of item i.
func (o *responder) add(i int, r *result) error {
	if o.f.document != nil {
		o.results = append(o.results, r)
		return nil
	}
	line, err := o.s.wireResult(o.ctx, o.j, i, r)
	if err != nil {
		return err
	}
	o.w.Header().Set("Content-Type", o.f.mediaType)
	if err := writeTensors(o.w, line, o.j.req); err != nil {
		return err
	}
	o.s.ledgerOf(o.ctx).sent()
	return http.NewResponseController(o.w).Flush()
}

// end sends what was gathered. A document is made whole before its first byte goes out, so
// that an error can still be told.
func (o *responder) end() error {
	if o.f.document == nil {
		return nil
	}
	if !slices.ContainsFunc(o.results, func(r *result) bool { return r.err == nil }) {
		p := asProblem(o.ctx, o.results[0].err)
		p.Item = new(int)
		return fmt.Errorf("%w: all %d items failed", p, len(o.results))
	}
	stop := stage(o.ctx, "encode")
	var buf bytes.Buffer
	err := o.f.document(&buf, o.s, o.j, o.results)
	stop()
	if err != nil {
		return err
	}
	h := o.w.Header()
	h.Set("Content-Type", o.f.mediaType)
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	if o.j.head > 0 {
		h.Set(binarySize, strconv.Itoa(o.j.head))
	}
	_, err = buf.WriteTo(o.w)
	return err
}

// wireTensor is a tensor in JSON.
type wireTensor struct {
	Shape  []int         `json:"shape"`
	DType  weights.DType `json:"dtype"`
	Order  string        `json:"order"`
	Endian string        `json:"endian,omitempty"`
	Data   any           `json:"data"` // base64Data, or numbers
}

// base64Data is the data of a tensor that goes as base64. The encoder of JSON would look at every
// byte of it several times, so to it the data are null, and writeTensors puts them in.
type base64Data struct {
	raw  []byte
	into *[][]byte // the data that the encoder met so far
}

// MarshalJSON notes the data and leaves null.
func (d base64Data) MarshalJSON() ([]byte, error) {
	*d.into = append(*d.into, d.raw)
	return []byte("null"), nil
}

// withoutData is how a wireTensor of base64Data looks to the encoder. No string of a client can
// hold it, since quotes within strings are escaped.
const withoutData = `"endian":"little","data":null`

// spare is capacity for n bytes that are about to be written: the buffer's own, if w is one.
func spare(w io.Writer, n int) []byte {
	if b, ok := w.(*bytes.Buffer); ok {
		b.Grow(n)
		return b.AvailableBuffer()
	}
	return make([]byte, 0, n)
}

// writeTensors writes v, in which wireTensors of the request are, as a line of JSON.
func writeTensors(w io.Writer, v any, req *workRequest) error {
	req.data = nil
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	size := len(text) + 1
	for _, raw := range req.data {
		size += base64.StdEncoding.EncodedLen(len(raw)) + 2
	}
	out := spare(w, size)
	for _, raw := range req.data {
		at := bytes.Index(text, []byte(withoutData)) + len(withoutData) - len("null")
		out = append(append(out, text[:at]...), '"')
		out = append(base64.StdEncoding.AppendEncode(out, raw), '"')
		text = text[at+len("null"):]
	}
	_, err = w.Write(append(append(out, text...), '\n'))
	return err
}

func tensorJSON(t tensor.Tensor, req *workRequest) (*wireTensor, error) {
	dt, err := dtypeOf(req.DType)
	if err != nil {
		return nil, err
	}
	out := &wireTensor{Shape: t.Shape, DType: weights.DType(strings.ToLower(string(dt))), Order: "row-major"}
	if req.Encoding == "float" {
		out.DType, out.Data = "f32", t.Data
		return out, finite(t)
	}
	raw, err := encodeTensor(t, dt)
	if err != nil {
		return nil, err
	}
	out.Endian, out.Data = "little", base64Data{raw.Data, &req.data}
	return out, nil
}

// wireResult is one element of "data".
type wireResultBody struct {
	ID     string         `json:"id,omitempty"`
	Index  int            `json:"index"`
	Status string         `json:"status"`
	Error  *Problem       `json:"error,omitempty"`
	Plan   *pipeline.Plan `json:"plan,omitempty"`
	*estimate

	Latents    *wireTensor `json:"latents,omitempty"`
	Pooled     *wireTensor `json:"pooled,omitempty"`
	ByteArray  *wireTensor `json:"byte_array,omitempty"`
	SoftTokens *wireTensor `json:"soft_tokens,omitempty"`
	Attention  *wireTensor `json:"attention,omitempty"`
	Grid       []int       `json:"grid,omitempty"`
	Notes      []string    `json:"notes,omitempty"`

	Prediction *pipeline.Prediction `json:"prediction,omitempty"`
	Flow       *wireTensor          `json:"flow,omitempty"`
	Frames     *wireTensor          `json:"frames,omitempty"`
	Audio      *wireTensor          `json:"audio,omitempty"`
	Logits     *wireTensor          `json:"logits,omitempty"`
	Answers    *wireTensor          `json:"answers,omitempty"`
}

// wireResult words one result.
func (s *Server) wireResult(ctx context.Context, j *job, i int, r *result) (*wireResultBody, error) {
	body := &wireResultBody{ID: r.id, Index: i, Status: "ok", Plan: &r.plan, estimate: r.estimate}
	if r.err != nil {
		s.itemFailed(ctx, body, r.err)
		return body, nil
	}
	if e := r.encoding; e != nil {
		body.Grid, body.Notes = e.Grid, e.Notes
	}
	body.Prediction = r.prediction
	places := map[string]**wireTensor{
		pipeline.OutputLatents: &body.Latents, pipeline.OutputPooled: &body.Pooled, pipeline.OutputByteArray: &body.ByteArray,
		pipeline.OutputSoftTokens: &body.SoftTokens, pipeline.OutputAttention: &body.Attention, pipeline.OutputFlow: &body.Flow,
		pipeline.OutputFrames: &body.Frames, pipeline.OutputAudio: &body.Audio, pipeline.OutputLogits: &body.Logits,
		pipeline.OutputAnswers: &body.Answers,
	}
	for name, t := range r.tensors() {
		worded, err := tensorJSON(t, j.req)
		if err != nil && len(j.items) > 1 && !j.req.Atomic {
			r.err = err
			failed := &wireResultBody{ID: r.id, Index: i}
			s.itemFailed(ctx, failed, err)
			return failed, nil
		}
		if err != nil {
			return nil, err
		}
		*places[name] = worded
	}
	return body, nil
}

// itemFailed words the failure of one item among others.
func (s *Server) itemFailed(ctx context.Context, body *wireResultBody, err error) {
	p := asProblem(ctx, err)
	p.Item = &body.Index
	body.Status, body.Plan, body.Error = "error", nil, p
	s.metrics.problem(p.Code)
	s.Log.Log(ctx, p.logLevel(), "item", "id", ctx.Value(requestIDKey{}), "item", body.Index, "code", p.Code, "error", err.Error())
}

// document is the JSON answer of the native routes.
type document struct {
	Model     string             `json:"model"`
	Digest    string             `json:"model_digest,omitempty"`
	RequestID string             `json:"request_id"`
	Data      []*wireResultBody  `json:"data"`
	Errors    int                `json:"errors"`
	Timing    map[string]float64 `json:"timing_ms"`
}

func writeDocument(w io.Writer, s *Server, j *job, results []*result) error {
	d := document{Model: j.req.Model, Digest: j.model.Info().Digest, Data: []*wireResultBody{}}
	d.RequestID, _ = j.ctx.Value(requestIDKey{}).(string)
	for i, r := range results {
		body, err := s.wireResult(j.ctx, j, i, r)
		if err != nil {
			return err
		}
		if r.err != nil {
			d.Errors++
		}
		d.Data = append(d.Data, body)
	}
	if t, ok := j.ctx.Value(timingsKey{}).(*timings); ok {
		d.Timing = t.ms()
	}
	return writeTensors(w, d, j.req)
}

// tensors lists what a result holds, by the names of "output".
func (r *result) tensors() map[string]tensor.Tensor {
	all := map[string]tensor.Tensor{}
	add := func(name string, t tensor.Tensor) {
		if t.Data != nil {
			all[name] = t
		}
	}
	if e := r.encoding; e != nil {
		add(pipeline.OutputLatents, e.Latents)
		add(pipeline.OutputPooled, e.Pooled)
		add(pipeline.OutputByteArray, e.ByteArray)
		add(pipeline.OutputSoftTokens, e.SoftTokens)
		add(pipeline.OutputAttention, e.Attention)
	}
	if d := r.decoding; d != nil {
		add(pipeline.OutputPooled, d.Pooled)
		add(pipeline.OutputSoftTokens, d.SoftTokens)
		add(pipeline.OutputLogits, d.Logits)
		add(pipeline.OutputAnswers, d.Answers)
	}
	if p := r.prediction; p != nil && p.Flow != nil {
		add(pipeline.OutputFlow, p.Flow.Field)
	}
	if p := r.prediction; p != nil && p.Reconstruction != nil {
		add(pipeline.OutputFrames, p.Reconstruction.Frames)
		add(pipeline.OutputAudio, p.Reconstruction.Audio)
	}
	return all
}

// only returns the one tensor of the one item.
func only(results []*result) (tensor.Tensor, error) {
	if results[0].err != nil {
		return tensor.Tensor{}, results[0].err
	}
	all := results[0].tensors()
	if len(all) != 1 {
		return tensor.Tensor{}, fieldProblem("output", fmt.Sprintf("gives %d tensors; this format holds one", len(all)))
	}
	for _, t := range all {
		return t, nil
	}
	return tensor.Tensor{}, nil
}

func tensorDocument(write func(io.Writer, tensor.Tensor, weights.DType) error) func(io.Writer, *Server, *job, []*result) error {
	return func(w io.Writer, _ *Server, j *job, results []*result) error {
		t, err := only(results)
		if err != nil {
			return err
		}
		dt, err := dtypeOf(j.req.DType)
		if err != nil {
			return err
		}
		if _, err := encodeTensor(t, dt); err != nil {
			return err
		}
		return write(w, t, dt)
	}
}

// rawDocument is bare little-endian values, what llama.cpp's llama_batch.embd takes as f32.
func rawDocument(w io.Writer, _ *Server, j *job, results []*result) error {
	t, err := only(results)
	if err != nil {
		return err
	}
	dt, err := dtypeOf(j.req.DType)
	if err != nil {
		return err
	}
	raw, err := encodeTensor(t, dt)
	if err != nil {
		return err
	}
	_, err = w.Write(raw.Data)
	return err
}

// named is every tensor of every item, named "0.latents", "0.pooled", ….
type named struct {
	tensors map[string]tensor.Tensor
	dtype   weights.DType     // that they are sent in
	size    int               // bytes they take in it
	meta    map[string]string // the model, and why items failed
}

// gather names the tensors of a request's results; values that are not finite in the asked type are an
// error.
func gather(j *job, results []*result) (*named, error) {
	dt, err := dtypeOf(j.req.DType)
	if err != nil {
		return nil, err
	}
	n := &named{tensors: map[string]tensor.Tensor{}, dtype: dt}
	n.meta = map[string]string{"model": j.req.Model, "model_digest": j.model.Info().Digest}
	for i, r := range results {
		if r.err != nil {
			n.meta[fmt.Sprintf("%d.error", i)] = asProblem(j.ctx, r.err).Error()
			continue
		}
		tensors := r.tensors()
		if len(tensors) == 0 {
			return nil, fieldProblem("output", "gives no tensors; this format holds nothing else")
		}
		for name, t := range tensors {
			if err := finiteAs(t, dt); err != nil {
				return nil, err
			}
			n.tensors[fmt.Sprintf("%d.%s", i, name)] = t
			n.size += dt.Size() * len(t.Data)
		}
	}
	return n, nil
}

// safetensorsDocument holds the tensors by name.
func safetensorsDocument(w io.Writer, _ *Server, j *job, results []*result) error {
	n, err := gather(j, results)
	if err != nil {
		return err
	}
	spare(w, n.size+4096) // of names
	return weights.WriteSafetensors(w, n.tensors, n.dtype, n.meta)
}

// oipDocument holds the tensors by name as an answer of the Open Inference Protocol with binary data:
// JSON, whose length the header says, and the values after it.
func oipDocument(w io.Writer, _ *Server, j *job, results []*result) error {
	n, err := gather(j, results)
	if err != nil {
		return err
	}
	names := map[weights.DType]string{weights.F32: "FP32", weights.F16: "FP16", weights.BF16: "BF16"}
	var outs []oipTensor
	values := make([]byte, 0, n.size)
	for _, name := range slices.Sorted(maps.Keys(n.tensors)) {
		raw, err := encodeTensor(n.tensors[name], n.dtype)
		if err != nil {
			return err
		}
		outs = append(outs, oipTensor{Name: name, Datatype: names[n.dtype], Shape: raw.Shape, Parameters: map[string]any{"binary_data_size": len(raw.Data)}})
		values = append(values, raw.Data...)
	}
	head, err := json.Marshal(map[string]any{"id": requestIDOf(j.ctx), "model_name": modelOf(j.req.Model), "parameters": n.meta, "outputs": outs})
	if err != nil {
		return err
	}
	j.head = len(head)
	spare(w, len(head)+n.size)
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err = w.Write(values)
	return err
}
