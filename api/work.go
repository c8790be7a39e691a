package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strings"

	"github.com/mmserve/mmserve/pipeline"
	"github.com/mmserve/mmserve/tensor"
)

// result is the outcome of one item of a batch.
type result struct {
	id         string
	encoding   *pipeline.Encoding
	prediction *pipeline.Prediction
	decoding   *pipeline.Decoding // its Prediction is prediction
	plan       pipeline.Plan
	estimate   *estimate // of a plan alone
	err        error
}

// estimate is what the queue says of a plan now.
type estimate struct {
	MS       float64 `json:"estimated_ms"` // until it is done, with what is admitted before it
	Admitted bool    `json:"admitted"`     // whether it would be
}

// job is a parsed request that is ready to run.
type job struct {
	req     *workRequest
	items   []pipeline.Item
	model   pipeline.Model
	plan    func(context.Context, pipeline.Item) (pipeline.Plan, error) // of an item, before it has its turn
	release func()
	ctx     context.Context
	cancel  context.CancelFunc
	head    int // bytes of JSON before the values of an answer that has both
}

// begin parses a request and starts it. The caller ends it.
func (s *Server) begin(r *http.Request) (*job, error) {
	stop := stage(r.Context(), "parse")
	req, items, err := s.parseWork(r)
	stop()
	if err != nil {
		return nil, err
	}
	return s.start(r, req, items)
}

// start finds the model of a parsed request and applies the request's deadline. The caller ends it.
func (s *Server) start(r *http.Request, req *workRequest, items []pipeline.Item) (*job, error) {
	if len(items) == 0 {
		return nil, fieldProblem("inputs", "is empty")
	}
	if req.DeadlineMS < 0 {
		return nil, fieldProblem("deadline_ms", "is negative")
	}
	if req.Top < 0 {
		return nil, fieldProblem("top", "is negative")
	}
	if req.Latent != nil && *req.Latent < -1 {
		return nil, fieldProblem("latent", "is negative; -1 is the mean of all")
	}
	name, err := s.model(req.Model)
	if err != nil {
		return nil, err
	}
	j := &job{req: req, items: items, ctx: r.Context(), cancel: func() {}}
	if req.DeadlineMS > 0 {
		j.ctx, j.cancel = context.WithTimeout(j.ctx, shorter(s.deadline(), req.DeadlineMS))
	}
	if err := s.fetchItems(j.ctx, items); err != nil {
		j.cancel()
		return nil, err
	}
	stop := stage(r.Context(), "model")
	j.model, j.release, err = s.Store.Acquire(j.ctx, name)
	stop()
	if err != nil {
		j.cancel()
		return nil, err
	}
	req.Model, j.plan = name, j.model.Plan
	return j, nil
}

// identify says in a header which model an answer is of.
func identify(w http.ResponseWriter, m pipeline.Model) {
	if digest := m.Info().Digest; digest != "" {
		w.Header().Set("X-Model-Digest", digest)
	}
}

func (j *job) end() {
	j.release()
	j.cancel()
}

// each plans, admits and runs every item in order and hands each outcome on as it comes. An
// item that fails does so alone; only a saturated queue before the first item, an ended
// context, or a failure under "atomic" ends the request.
func (s *Server) each(j *job, run func(ctx context.Context, it pipeline.Item, r *result) error, done func(i int, r *result) error) error {
	for i, it := range j.items {
		r := &result{id: it.ID}
		if r.err = s.one(j, it, r, run); r.err != nil {
			r.encoding, r.prediction, r.decoding = nil, nil, nil
		}
		if err := j.ctx.Err(); err != nil {
			return err
		}
		var full *Saturated
		if r.err != nil && (j.req.Atomic || len(j.items) == 1 || i == 0 && errors.As(r.err, &full)) {
			return r.err
		}
		if err := done(i, r); err != nil {
			return err
		}
	}
	return nil
}

// one plans, admits and runs one item. A panic fails the item, not its neighbours.
func (s *Server) one(j *job, it pipeline.Item, r *result, run func(context.Context, pipeline.Item, *result) error) (err error) {
	defer recovered(&err)
	stop := stage(j.ctx, "plan")
	r.plan, err = j.plan(j.ctx, it)
	stop()
	if err != nil {
		return err
	}
	stop = stage(j.ctx, "queue")
	place := s.queue.place(j.ctx)
	leave, err := place.Enter(j.ctx, turnCost(r.plan))
	stop()
	if err != nil {
		return err
	}
	defer leave()
	defer func() {
		if err != nil {
			place.Fail()
		}
	}()
	free, err := s.enterRoom(j.ctx, j.req, r.plan)
	if err != nil {
		return err
	}
	defer free()
	s.metrics.work(modelOf(j.req.Model), r.plan)
	stop = stage(j.ctx, "model")
	defer stop()
	if err := run(s.moving(j.ctx), it, r); err != nil {
		return err
	}
	return s.ledgerOf(j.ctx).keep(r.bytes())
}

// coreRate is the FLOPs a second that a core does in passes of a few milliseconds: 1,668 texts a
// second of 67 MFLOPs each on two cores (docs/performance.md).
const coreRate = 50e9

// turnCost is what a plan counts as in the queue: its network's FLOPs, and what a core would do
// in the time that decoding takes it. A large picture or a long recording may be little to a
// small network, and holds a turn all the same.
func turnCost(p pipeline.Plan) float64 { return p.FLOPs + coreRate*p.Decoding.Seconds() }

// What text costs in the queue besides its media.
const (
	bytesPerToken = 3 // of a prompt, before it is read
	// tokenWork is what a token that is drawn counts as in tokens of a prompt. It reads every weight
	// for itself: 14 GFLOP a second of float32 at the 28 GB/s that two cores read, where passes do 100.
	tokenWork = 7
)

// textCost is what a language model of so many parameters counts as for a prompt and the tokens drawn.
func textCost(parameters int64, prompt, tokens int) float64 {
	return 2 * float64(parameters) * float64(prompt+tokenWork*tokens)
}

// modelOf is a model's name without the digest that a request may add.
func modelOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	return name
}

// encode answers POST /v1/encode.
func (s *Server) encode(w http.ResponseWriter, r *http.Request) error {
	j, err := s.begin(r)
	if err != nil {
		return err
	}
	defer j.end()
	opt := pipeline.EncodeOptions{Outputs: j.req.Output, Latent: -1}
	if j.req.Latent != nil {
		opt.Latent = *j.req.Latent
	}
	if err := checkOutputs(j.req.Output); err != nil {
		return err
	}
	out, err := s.responder(w, r, j)
	if err != nil {
		return err
	}
	err = s.each(j, func(ctx context.Context, it pipeline.Item, r *result) error {
		enc, err := j.model.Encode(ctx, it, opt)
		if err == nil && j.req.Normalize {
			unit(enc.Pooled)
		}
		r.encoding = enc
		return err
	}, out.add)
	if err != nil {
		return err
	}
	return out.end()
}

// predict answers POST /v1/predict.
func (s *Server) predict(w http.ResponseWriter, r *http.Request) error {
	j, err := s.begin(r)
	if err != nil {
		return err
	}
	defer j.end()
	out, err := s.responder(w, r, j)
	if err != nil {
		return err
	}
	err = s.each(j, func(ctx context.Context, it pipeline.Item, r *result) error {
		p, err := j.model.Predict(ctx, it, pipeline.PredictOptions{Top: j.req.Top, Caption: j.req.Caption})
		r.prediction = p
		return err
	}, out.add)
	if err != nil {
		return err
	}
	return out.end()
}

// plan answers POST /v1/plan: what the items would cost; nothing is decoded or admitted.
func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	j, err := s.begin(r)
	if err != nil {
		return err
	}
	defer j.end()
	s.queue.place(r.Context()).Close() // what is asked about comes after this request, not beside it
	out, err := s.responder(w, r, j)
	if err != nil {
		return err
	}
	for i, it := range j.items {
		res := &result{id: it.ID}
		func() {
			defer recovered(&res.err)
			res.plan, res.err = j.model.Plan(j.ctx, it)
		}()
		if res.err != nil && len(j.items) == 1 {
			return res.err
		}
		if res.err == nil {
			until, admitted := s.queue.estimate(turnCost(res.plan))
			res.estimate = &estimate{float64(until.Microseconds()) / 1e3, admitted}
		}
		if err := out.add(i, res); err != nil {
			return err
		}
	}
	return out.end()
}

// outputs are the values of "output".
var outputs = []string{pipeline.OutputLatents, pipeline.OutputPooled, pipeline.OutputByteArray, pipeline.OutputSoftTokens, pipeline.OutputAttention, "all"}

func checkOutputs(asked []string) error {
	for _, o := range asked {
		known := false
		for _, k := range outputs {
			known = known || o == k
		}
		if !known {
			return fieldProblem("output", "has an unknown value "+quote(o)+"; known: latents, pooled, byte_array, soft_tokens, attention, all")
		}
	}
	return nil
}

// quote shortens and quotes a client's word for an error.
func quote(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return "\"" + s + "\""
}

// unit scales a vector to length one, in place; a zero vector stays.
func unit(t tensor.Tensor) {
	sum := 0.0
	for _, x := range t.Data {
		sum += float64(x) * float64(x)
	}
	if sum == 0 {
		return
	}
	k := float32(1 / math.Sqrt(sum))
	for i := range t.Data {
		t.Data[i] *= k
	}
}
