package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
	"github.com/mmserve/mmserve/weights"
)

// decodeRequest is the body of POST /v1/decode: latents as /v1/encode gave them, and what to ask
// of them.
type decodeRequest struct {
	Model       string           `json:"model"`
	ModelDigest string           `json:"model_digest"` // that the latents are of; another is refused
	Inputs      []decodeInput    `json:"inputs"`
	Output      stringList       `json:"output"`    // names of the model's "decodes"; absent: what predict gives
	Modality    stringList       `json:"modality"`  // media that the latents are of
	Queries     *wireArray       `json:"queries"`   // of one's own, O×E
	Positions   []int            `json:"positions"` // of a fill-mask model
	Points      map[string][]int `json:"points"`    // of an autoencoder: "image", "audio"
	Top         int              `json:"top"`       // classes a list holds
	DType       string           `json:"dtype"`     // as workRequest, and all below
	Encoding    string           `json:"encoding"`
	Format      string           `json:"format"`
	Normalize   bool             `json:"normalize"`
	Target      *wireTarget      `json:"target"`
	DeadlineMS  int64            `json:"deadline_ms"`
	Atomic      bool             `json:"atomic"`
	User        json.RawMessage  `json:"user"`

	queries tensor.Tensor
	items   []pipeline.Item
}

// decodeInput is one item: its latents, and what they are of where the decoder's queries need it.
type decodeInput struct {
	ID      string     `json:"id"`
	Latents *wireArray `json:"latents"`
	Content []wirePart `json:"content"`
}

// wireArray is a tensor in a request, written as answers write theirs.
type wireArray struct {
	Shape  []int           `json:"shape"`
	DType  string          `json:"dtype"`  // empty: f32
	Order  string          `json:"order"`  // empty or "row-major"
	Endian string          `json:"endian"` // empty or "little"
	Data   json.RawMessage `json:"data"`   // base64, or a flat list of numbers
}

// most values of a tensor in a request; a body's limit comes first unless it was raised.
const mostValues = 1 << 28

// tensor reads the values; field names the tensor in errors.
func (w *wireArray) tensor(field string) (tensor.Tensor, error) {
	fail := func(part, what string) (tensor.Tensor, error) { return tensor.Tensor{}, fieldProblem(field+part, what) }
	if w == nil {
		return fail("", "is missing")
	}
	n := 1
	for _, d := range w.Shape {
		if d < 1 || d > mostValues/n {
			return fail(".shape", fmt.Sprintf("%.100s is impossible", fmt.Sprint(w.Shape)))
		}
		n *= d
	}
	dt, err := dtypeOf(w.DType)
	switch {
	case len(w.Shape) == 0:
		return fail(".shape", "is empty")
	case err != nil:
		return fail(".dtype", "wants f32, f16 or bf16, not "+quote(w.DType))
	case w.Order != "" && w.Order != "row-major":
		return fail(".order", "wants row-major, not "+quote(w.Order))
	case w.Endian != "" && w.Endian != "little":
		return fail(".endian", "wants little, not "+quote(w.Endian))
	}
	if len(w.Data) > 0 && w.Data[0] == '[' {
		var values []float32
		if err := json.Unmarshal(w.Data, &values); err != nil || dt != weights.F32 {
			return fail(".data", "is no flat list of f32 numbers")
		}
		if len(values) != n {
			return fail(".data", fmt.Sprintf("has %d values, the shape %v asks for %d", len(values), w.Shape, n))
		}
		return tensor.Of(values, w.Shape...), nil
	}
	raw, err := unquote64(w.Data)
	if err != nil {
		return fail(".data", err.Error())
	}
	if len(raw) != n*dt.Size() {
		return fail(".data", fmt.Sprintf("has %d bytes, the shape %v of %s asks for %d", len(raw), w.Shape, strings.ToLower(string(dt)), n*dt.Size()))
	}
	return weights.Raw{DType: dt, Shape: w.Shape, Data: raw}.Tensor(), nil
}

// parseDecode reads a request in any of three forms: JSON; multipart (a part "request" with the
// JSON, a file "queries", and files of latents); or a raw file of latents. The query says what JSON
// does not.
func (s *Server) parseDecode(r *http.Request) (*decodeRequest, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" {
		kind, err = "application/octet-stream", nil
	}
	if err != nil {
		return nil, problem(codeMediaType, "the Content-Type cannot be read")
	}
	req, err := decodeQuery(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "application/json":
		err = decodeJSON(r.Context(), r.Body, req)
	case "multipart/form-data", "multipart/mixed":
		err = s.decodeParts(r, params["boundary"], req)
	case "application/octet-stream", "application/x-npy", "application/vnd.safetensors":
		var body []byte
		if body, err = readWhole(r.Body, r.ContentLength); err == nil {
			err = s.file(req, body, r.URL.Query().Get("id"))
		}
	default:
		err = problem(codeMediaType, "latents are sent as JSON, multipart/form-data, application/x-npy or application/vnd.safetensors, not "+quote(kind))
	}
	if err != nil {
		return nil, err
	}
	return req, s.addInputs(req)
}

// decodeQuery reads the options of a request from its query.
func decodeQuery(r *http.Request) (*decodeRequest, error) {
	q, err := queryRequest(r, "positions", "model_digest")
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	for _, name := range []string{"latent", "caption", "options"} {
		if query.Has(name) {
			return nil, fieldProblem(name, "is not a parameter of this request")
		}
	}
	req := &decodeRequest{
		Model: q.Model, ModelDigest: query.Get("model_digest"), Output: q.Output, Top: q.Top, DType: q.DType, Encoding: q.Encoding,
		Format: q.Format, Normalize: q.Normalize, DeadlineMS: q.DeadlineMS, Atomic: q.Atomic,
	}
	if of := query.Get("modality"); of != "" {
		req.Modality = strings.Split(of, ",")
	}
	if list := query.Get("positions"); list != "" {
		for word := range strings.SplitSeq(list, ",") {
			n, err := strconv.Atoi(word)
			if err != nil {
				return nil, fieldProblem("positions", "is "+quote(list)+"; want whole numbers with commas between")
			}
			req.Positions = append(req.Positions, n)
		}
	}
	return req, nil
}

// decodeParts reads a multipart body.
func (s *Server) decodeParts(r *http.Request, boundary string, req *decodeRequest) error {
	return eachPart(r, boundary, func(p *multipart.Part) error {
		if p.FormName() == "request" {
			return decodeJSON(r.Context(), p, req)
		}
		data, err := io.ReadAll(p)
		if err != nil {
			return err
		}
		if p.FormName() != "queries" {
			return s.file(req, data, p.FormName())
		}
		f, err := pipeline.ReadLatents(data, 1)
		switch {
		case err != nil:
			return err
		case f.Queries.Shape != nil:
			req.queries = f.Queries
		case len(f.Latents) == 1: // a NumPy file, which names nothing
			req.queries = f.Latents[0]
		default:
			return fieldProblem("queries", "wants one array O×E")
		}
		return nil
	})
}

// file adds the items of a file of latents.
func (s *Server) file(req *decodeRequest, data []byte, id string) error {
	f, err := pipeline.ReadLatents(data, s.maxItems()-len(req.items))
	if err != nil {
		return err
	}
	if f.Queries.Shape != nil {
		req.queries = f.Queries
	}
	if f.Digest != "" {
		if req.ModelDigest != "" && !pipeline.SameDigest(f.Digest, req.ModelDigest) {
			return problem(codeBadInput, "the file's latents are of model "+quote(f.Digest)+", the request says "+quote(req.ModelDigest))
		}
		req.ModelDigest = f.Digest
	}
	for i, t := range f.Latents {
		name := id
		if name == "" {
			name = f.Names[i]
		}
		req.items = append(req.items, pipeline.Item{ID: name, Latents: t})
	}
	return nil
}

// addInputs adds the items of the JSON part. One that cannot be read fails later, alone.
func (s *Server) addInputs(req *decodeRequest) error {
	if req.Queries != nil {
		if req.queries.Shape != nil {
			return fieldProblem("queries", "are given twice")
		}
		var err error
		if req.queries, err = req.Queries.tensor("queries"); err != nil {
			return err
		}
	}
	if n := len(req.items) + len(req.Inputs); n > s.maxItems() {
		return s.tooManyItems(n)
	}
	for i, in := range req.Inputs {
		it := pipeline.Item{ID: in.ID}
		if len(in.Content) > 0 {
			items, err := s.items([]wireItem{{Content: in.Content}})
			if err != nil {
				return err
			}
			it.Parts = items[0].Parts
		}
		var err error
		if it.Latents, err = in.Latents.tensor(fmt.Sprintf("inputs[%d].latents", i)); err != nil {
			it.Parts = []pipeline.Part{{Input: missing(err)}}
		}
		req.items = append(req.items, it)
	}
	return nil
}

// work is the request as the other native routes know it.
func (req *decodeRequest) work() *workRequest {
	return &workRequest{
		Model: req.Model, Output: req.Output, Top: req.Top, DType: req.DType, Encoding: req.Encoding, Format: req.Format,
		Normalize: req.Normalize, Target: req.Target, DeadlineMS: req.DeadlineMS, Atomic: req.Atomic,
	}
}

// decode answers POST /v1/decode.
func (s *Server) decode(w http.ResponseWriter, r *http.Request) error {
	stop := stage(r.Context(), "parse")
	req, err := s.parseDecode(r)
	stop()
	if err != nil {
		return err
	}
	j, err := s.start(r, req.work(), req.items)
	if err != nil {
		return err
	}
	defer j.end()
	m, ok := j.model.(pipeline.LatentDecoder)
	if !ok {
		return fmt.Errorf("%w: %s has no decoder that latents are enough for", pipeline.ErrNoTask, j.req.Model)
	}
	if have := m.Info().Digest; req.ModelDigest != "" && !pipeline.SameDigest(have, req.ModelDigest) {
		p := problem(codeBadInput, "the latents are of model "+quote(req.ModelDigest)+", "+j.req.Model+" is "+have)
		p.Field = "model_digest"
		return p
	}
	for i, name := range req.Modality {
		if known, ok := modalityNames[name]; ok {
			req.Modality[i] = known
		}
	}
	opt := pipeline.DecodeOptions{Outputs: req.Output, Modalities: req.Modality, Top: req.Top, Positions: req.Positions, Points: req.Points, Queries: req.queries}
	j.plan = func(ctx context.Context, it pipeline.Item) (pipeline.Plan, error) {
		for _, p := range it.Parts {
			if a, ok := p.Input.At.(*absent); ok && a.err != nil {
				return pipeline.Plan{}, a.err
			}
		}
		return m.PlanDecode(ctx, it, opt)
	}
	out, err := s.responder(w, r, j)
	if err != nil {
		return err
	}
	err = s.each(j, func(ctx context.Context, it pipeline.Item, res *result) error {
		d, err := m.Decode(ctx, it, opt)
		if errors.Is(err, pipeline.ErrNotFinite) {
			return problem(codeBadInput, "the latents lead to values that are not finite: no encoder gave them")
		}
		if err != nil {
			return err
		}
		if req.Normalize {
			unit(d.Pooled)
		}
		res.decoding, res.prediction = d, d.Prediction
		return nil
	}, out.add)
	if err != nil {
		return err
	}
	return out.end()
}
